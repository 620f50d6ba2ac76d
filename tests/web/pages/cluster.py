"""Three replicas at work on jobs of every kind, with their pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.faults.fleet import Fleet, Replica

TOKEN = "a-token-for-writing-7f3a"
SCRIPT = "<script>document.title='pwned'</script><img src=x onerror=alert(1)>"

JOBS: dict[str, Any] = {
    "heartbeat": {"command": "date", "every": "2s", "description": "Tells that somebody is alive"},
    "sync-orders": {"command": "sleep 0.$(( $(date +%s) % 6 ))", "every": "3s", "tags": ["shop"]},
    "flaky-import": {
        "command": "test $(( $(date +%s) / 4 % 3 )) -ne 0 || { echo no feed >&2; exit 3; }",
        "every": "4s",
    },
    "always-fails": {
        "command": ["sh", "-c", 'echo "$1"; exit 1', "sh", SCRIPT],
        "every": "5s",
        "description": f"Fails: {SCRIPT}",
    },
    "slow-export": {"command": "sleep 4", "every": "3s"},
    "nightly-report": {"command": "true", "cron": "30 2 * * MON-FRI", "timezone": "Europe/Berlin"},
    "invoices": {"command": "true", "every": "1h"},
    "long-task": {"command": "echo begun; sleep 600", "manual": True},
    "greeting": {"command": "echo hello from the run", "manual": True},
    "retired": {"command": "true", "cron": "@daily", "enabled": False},
}


def cluster(folder: Path, url: str, **http: Any) -> Fleet:
    """Return three replicas, not started, that serve pages on free ports."""
    return Fleet(folder, url, JOBS, http={"enabled": True, "port": 0, "token": TOKEN, **http})


def page_of(replica: Replica) -> str:
    """Return where a replica's pages are."""
    return str(replica.wait_for("service_started")["http"])
