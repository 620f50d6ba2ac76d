"""What `deploy/` has for Prometheus and Grafana, against a real scrape and Prometheus' own tool."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler_service.metrics import CATALOGUE
from scheduler_service.metrics.catalogue import HISTOGRAM, SUMMARY

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy/prometheus-alerts.yaml"
DASHBOARD = ROOT / "deploy/grafana-dashboard.json"
NAME = re.compile(r"\bscheduler_[a-z_]+\b")
LABELS = re.compile(r"(scheduler_[a-z_]+)\{([^}]*)\}")
OF_PROMETHEUS = {"job", "instance", "le"}

SERIES = {
    f"{name}{suffix}"
    for name, metric in CATALOGUE.items()
    for suffix in {HISTOGRAM: ("_bucket", "_sum", "_count"), SUMMARY: ("_sum", "_count")}.get(metric.kind, ("",))
}


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def of_dashboard() -> Iterator[tuple[str, str]]:
    """Return the expressions of the dashboard as Prometheus gets them, and what names labels in its legends."""
    board = json.loads(DASHBOARD.read_text())
    targets = [target for panel in panels() for target in panel["targets"]]
    targets += [{"legendFormat": one["titleFormat"], **one} for one in board["annotations"]["list"]]
    targets += [{"expr": one["definition"], "legendFormat": ""} for one in board["templating"]["list"][1:]]
    for target in targets:
        expr = target["expr"].replace("$__rate_interval", "5m").replace("$service", "cron")
        yield re.sub(r"label_values\((.*), job\)", r"\1", expr), target["legendFormat"]


def expressions() -> list[str]:
    return [rule["expr"] for rule in alerts()] + [expr for expr, _ in of_dashboard()]


def test_every_metric_that_is_named_exists() -> None:
    named = {name for expr in expressions() for name in NAME.findall(expr)}
    assert named <= SERIES
    assert len(named) > 30


def test_every_label_that_is_named_exists() -> None:
    def known(name: str) -> set[str]:
        return {*CATALOGUE[name if name in CATALOGUE else re.sub("_(bucket|sum|count)$", "", name)].labels}

    for expr in expressions():
        for name, labels in LABELS.findall(expr):
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels)) <= known(name) | OF_PROMETHEUS, expr
        for labels in re.findall(r"\b(?:by|on|group_left) ?\(([^)]*)\)", expr):
            of_metrics = set().union(*(known(name) for name in NAME.findall(expr)))
            assert {one.strip() for one in labels.split(",")} - {""} <= of_metrics | OF_PROMETHEUS, expr
    for expr, legend in of_dashboard():
        shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
        assert shown <= set().union(*(known(name) for name in NAME.findall(expr)), OF_PROMETHEUS), legend


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_grave_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["alert"].startswith("Scheduler")
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", rule["expr"]))))
    named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert named <= (grouped or {"job", "instance"}), "a label that is not there is shown as nothing"


def test_panels_do_not_overlap_and_have_titles_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)
    refs = [[target["refId"] for target in panel["targets"]] for panel in panels()]
    assert all(len(set(one)) == len(one) for one in refs)


# --- by Prometheus' own tool


def promtool(*arguments: str, folder: Path) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.promtool
def test_prometheus_accepts_the_rules() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", str(ALERTS), folder=ROOT)


@pytest.mark.promtool
def test_prometheus_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": expr} for number, (expr, _) in enumerate(of_dashboard())]
    path = tmp_path / "dashboard.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path), folder=tmp_path)


@pytest.mark.promtool
def test_alerts_fire_when_they_should_and_at_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "alerts.yaml"
    path.write_text((Path(__file__).with_name("alerts.yaml")).read_text().replace("RULES", str(ALERTS)))
    promtool("test", "rules", str(path), folder=tmp_path)


def test_every_alert_is_tried() -> None:
    tried = set(re.findall(r"\bScheduler\w+", (Path(__file__).with_name("alerts.yaml")).read_text()))
    assert {rule["alert"] for rule in alerts()} <= tried
