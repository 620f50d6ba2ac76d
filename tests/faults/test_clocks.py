"""I10: the wall clocks of replicas are an hour off, this way and that, and decide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.faults.stories import World, kill
from tests.servers import PostgresServer

LIBRARY = next(Path("/usr").glob("lib*/**/faketime/libfaketimeMT.so.1"), None)
AHEAD, BEHIND = "+3600s", "-3600s"


@pytest.mark.skipif(LIBRARY is None, reason="no libfaketime here (Debian: apt-get install faketime)")
def test_replicas_whose_clocks_are_an_hour_off_lead_as_well_as_any(tmp_path: Path, own_server: PostgresServer) -> None:
    world = World.at_work(tmp_path, own_server.url, own_server)
    with world.fleet as fleet:
        fleet.start(1, _with_clock(AHEAD))
        fleet.start(1, _with_clock(BEHIND))
        assert {_hours_off(fleet.replicas[number].wait_for("service_started")) for number in (0, 1)} == {1, -1}
        world.settled_past_now()
        # The one ahead is killed, and the one behind goes on.
        kill(world)
        assert fleet.leader() is fleet.replicas[1]
        world.assert_all_is_well()


def _with_clock(offset: str) -> Mapping[str, str]:
    # Deadlines are counted on the boot clock, which nobody sets.
    return {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def _hours_off(line: Mapping[str, str]) -> int:
    return round((datetime.fromisoformat(line["timestamp"]) - datetime.now(UTC)) / timedelta(hours=1))
