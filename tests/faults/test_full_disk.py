"""The disk of the database is full, and has room again: the tables alone cannot grow, or nothing can be logged either.

The file systems are small ones in memory, which only root can mount.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.faults.administration import told_sparingly
from tests.faults.stories import World
from tests.servers import PostgresServer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system"),
]
BLOCK = bytes(2**16)


class SmallDisk:
    """A file system of so many MiB at `folder`."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")

    def fill(self) -> None:
        """Leave no room for a single byte."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (len(BLOCK), 4096):
                while True:
                    try:
                        ballast.write(BLOCK[:size])
                    except OSError as full:
                        if full.errno != errno.ENOSPC:
                            raise
                        break

    def clear(self) -> None:
        """Give the room back."""
        self._ballast.unlink()

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    disk = SmallDisk(folder, megabytes)
    try:
        yield disk
    finally:
        disk.unmount()


def test_tables_that_cannot_grow_stop_nothing_but_what_would_be_written(
    tmp_path: Path, own_server: PostgresServer
) -> None:
    place = own_server.folder / "small"
    place.mkdir()
    with small_disk(place, 64) as disk:
        own_server.own(place)
        with own_server.connect() as administrator:
            administrator.execute(f"create tablespace small location '{place}'".encode())
            administrator.execute("create database small tablespace small")
        world = World.at_work(tmp_path, own_server.url_of("small"), own_server)
        with world.fleet as fleet:
            fleet.start(2)
            world.settled_past_now()
            mark, began = fleet.mark(), time.monotonic()
            disk.fill()
            told = fleet.wait_for("store_unavailable", since=mark)
            assert "No space left on device" in told["error"]
            # Some rows still find room in the pages that there are: until none does, it comes and goes.
            fleet.wait_until(lambda: own_server.log.count("No space left on device") > 20)
            disk.clear()
            fleet.wait_for("store_recovered", since=mark, part=told["part"])
            world.settled_past_now()
            told_sparingly(world, mark, began)
            world.assert_all_is_well()


@pytest.mark.long
def test_a_server_that_ends_because_it_cannot_log_is_waited_for(tmp_path: Path) -> None:
    server = PostgresServer({"max_wal_size": "32MB", "min_wal_size": "32MB"})
    with small_disk(server.folder, 200) as disk, server:
        world = World.at_work(tmp_path, server.url, server)
        with world.fleet as fleet:
            fleet.start(2)
            world.settled_past_now()
            leader, mark, began = fleet.leader(), fleet.mark(), time.monotonic()
            disk.fill()
            with server.connect() as administrator, contextlib.suppress(psycopg.OperationalError):
                while True:  # use up what was made beforehand
                    administrator.execute("select pg_switch_wal(), pg_logical_emit_message(false, 'fill', 'up')")
            leader.wait_for("leadership_suspect", since=mark)
            assert "PANIC" in server.log
            disk.clear()
            fleet.wait_until(lambda: _answers(server))
            world.settled_past_now()
            told_sparingly(world, mark, began)
            world.assert_all_is_well()


def _answers(server: PostgresServer) -> bool:
    """Whether it is up; starts it when it has ended, as whoever watches over a server does."""
    try:
        server.connect().close()
    except psycopg.OperationalError:
        if not server.processes():
            server.start()
        return False
    return True
