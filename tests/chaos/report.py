"""What a run of chaos found, for people and for machines."""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tests.chaos.diary import Deed, Diary
from tests.chaos.judge import Verdict
from tests.chaos.plan import REQUESTS, Plan
from tests.chaos.records import Records

Figures = Mapping[str, float]
SHOWN = 40  # violations


def distribution(values: Sequence[float]) -> dict[str, float]:
    """Return min, p50, p90, p99, max and n."""
    if not values:
        return {"n": 0}
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    return {
        "min": min(values),
        "p50": cuts[49],
        "p90": cuts[89],
        "p99": cuts[98],
        "max": max(values),
        "n": len(values),
    }


def gaps(records: Records, deeds: Sequence[Deed]) -> dict[str, list[float]]:
    """Return by fault how many seconds passed from what took a leader away until the next decision.

    Taken away by the last fault before the next term began that hit the leader itself, or whatever it depends on.  A
    leader that went on deciding is counted from its last decision, and one that decided nothing at all counts as none.
    """
    found: dict[str, list[float]] = defaultdict(list)
    terms = sorted(records.terms, key=lambda term: term.term)
    decided = sorted(run.decided_at for run in records.runs)
    for former, term in itertools.pairwise(terms):
        acquired = term.acquired_at
        if acquired is None:
            continue
        before = [
            deed
            for deed in sorted(deeds, key=lambda deed: deed.at)
            if deed.at <= acquired
            and deed.victim in (None, former.instance)
            and (former.acquired_at is None or deed.at >= former.acquired_at)
        ]
        at = bisect.bisect_left(decided, acquired)
        if before and at < len(decided):
            began = max([before[-1].at, *decided[max(0, at - 1) : at]])
            found[before[-1].what].append((decided[at] - began).total_seconds())
    return found


def document(plan: Plan, diary: Diary, records: Records, verdict: Verdict) -> dict[str, Any]:
    """Return everything that was found, ready for JSON."""
    by_fault = gaps(records, diary.deeds)
    every = [gap for one in by_fault.values() for gap in one]
    return {
        "command": plan.command,
        "seed": plan.seed,
        "minutes": plan.minutes,
        "replicas": plan.replicas,
        "database": "SQLite" if plan.sqlite else "PostgreSQL",
        "faults": dict(sorted(Counter(deed.what for deed in diary.deeds).items())),
        "left_out": dict(sorted(diary.left_out.items())),
        "requests": {name: diary.requests[name] for name in REQUESTS},
        "ticks": verdict.tick_count,
        "decisions": dict(sorted(verdict.decisions.items())),
        "triggered": dict(sorted(verdict.manual.items())),
        "attempts": dict(sorted(verdict.attempts.items())),
        "begun": sum(line.what == "begin" for line in records.effects),
        "terms": len(records.terms),
        "gap_seconds": {
            "all": distribution(every),
            **{name: distribution(by_fault[name]) for name in sorted(by_fault)},
        },
        "violations": [str(one) for one in verdict.violations],
    }


def text(found: Mapping[str, Any]) -> str:
    """Return a report that can be pasted into a page."""
    violations = found["violations"]
    lines = [
        f"`{found['command']}` on {found['database']}:",
        "",
        f"{sum(found['faults'].values())} faults, {sum(found['requests'].values())} requests, {found['terms']} terms, "
        f"{found['ticks']} ticks, {sum(found['attempts'].values())} attempts, {len(violations)} violations",
        "",
        *_table(("fault", "times"), found["faults"].items()),
        "",
        *_table(("request", "times"), found["requests"].items()),
        "",
        *_table(("decision", "ticks"), found["decisions"].items()),
        "",
        *_table(("attempts that", "number"), found["attempts"].items()),
        "",
        *_table(
            ("seconds without a decision after", "n", "min", "p50", "p90", "p99", "max"),
            [
                (
                    name,
                    one["n"],
                    *(f"{one[key]:.3f}" if key in one else "" for key in ("min", "p50", "p90", "p99", "max")),
                )
                for name, one in found["gap_seconds"].items()
            ],
        ),
    ]
    if found["left_out"]:
        lines += ["", f"Left out, for want of a victim or an answer: {found['left_out']}"]
    if violations:
        lines += ["", f"{len(violations)} VIOLATIONS", *violations[:SHOWN]]
        lines += [f"… and {len(violations) - SHOWN} more"] if len(violations) > SHOWN else []
        lines += ["", f"again: {found['command']}"]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Any) -> list[str]:
    return [_row(head), _row("---" for _ in head), *(_row(row) for row in rows)]


def _row(cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
