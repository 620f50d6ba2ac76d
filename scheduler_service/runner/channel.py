"""How a replica, the process that watches over a run, and the run's own process speak with each other.

    replica                    supervisor                          child
       |<--- WATCHING --------------|                                 |
       |                            |---- fork ---------------------->|
       |<--- STARTED, its pid ------|<--- STARTED: it has a group ----|
       |---- RUN, a Request ------->|---- RUN, the same ------------->|
       |<--- BEGAN -------------------------- the function is loaded--|
       |---- ASK, why ------------->|---- why: on the board; SIGTERM->|
       |---- KILL ----------------->|---- SIGKILL to its group ------>|
       |                            |<--- its report: on the board ---|
       |<--- ENDED, an End ---------|

The channel is a stream of frames, the board a piece of memory: a job may close every descriptor it finds,
or fork and leave processes that hold them, and neither loses nor delays what is on the board.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import pickle
import select
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from scheduler_service.context import DatabaseAddress, RunContext, Stopping
from scheduler_service.model import State
from scheduler_service.runner.ending import Ending

RUN, WATCHING, STARTED, BEGAN, ASK, KILL, ENDED = b"R", b"W", b"S", b"B", b"A", b"K", b"E"
FRAME_SECONDS = 30.0  # for the rest of a frame whose beginning is there
LONGEST_REASON = 4000  # bytes
LONGEST_REPORT = 128 * 1024  # bytes; an Ending's texts have far fewer
_HEAD = struct.Struct("!cI")
_LENGTH = struct.Struct("!I")


class Channel:
    """One end of the stream between a replica and a supervisor."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.settimeout(FRAME_SECONDS)

    def fileno(self) -> int:
        """Return the descriptor, to wait for the next frame."""
        return self._end.fileno()

    def ready(self, seconds: float | None = None) -> bool:
        """Wait until there is something to receive, at most `seconds`; return whether there is."""
        poll = select.poll()
        poll.register(self._end.fileno(), select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    def send(self, word: bytes, payload: bytes = b"") -> bool:
        """Send one frame; return False if the other end is gone."""
        try:
            self._end.sendall(_HEAD.pack(word, len(payload)) + payload)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[bytes, bytes] | None:
        """Wait for one frame and return its word and payload; None if the other end is gone."""
        head = self._take(_HEAD.size)
        if head is None:
            return None
        word, length = _HEAD.unpack(head)
        payload = self._take(length)
        return None if payload is None else (word, payload)

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def _take(self, count: int) -> bytes | None:
        taken = bytearray()
        while len(taken) < count:
            try:
                data = self._end.recv(count - len(taken))
            except OSError:  # a reset; or half a frame, and then nothing for long
                return None
            if not data:
                return None
            taken += data
        return bytes(taken)


@dataclass(frozen=True, slots=True)
class Request:
    """What a child is told of its run.  What else its RunContext shall know is one more field here."""

    reference: str
    jobs_folder: Path
    arguments: bytes  # args and kwargs, pickled
    job: str
    scheduled_at: datetime
    due_at: datetime
    term: int
    fence: int
    attempt: int
    run_id: int
    instance: str
    folder: Path  # where it runs
    variables: Mapping[str, str]  # added to the environment
    log_level: int  # of the root logger
    database: DatabaseAddress | None

    def context(self, stopping: Stopping) -> RunContext:
        """Return what the job sees of itself."""
        return RunContext(
            job=self.job,
            scheduled_at=self.scheduled_at,
            due_at=self.due_at,
            term=self.term,
            fence=self.fence,
            attempt=self.attempt,
            run_id=self.run_id,
            instance=self.instance,
            stopping=stopping,
            database=self.database,
        )

    def packed(self) -> bytes:
        """Return it as bytes."""
        return pickle.dumps(self)

    @staticmethod
    def unpacked(data: bytes) -> Request:
        """Return what `packed` packed."""
        request = pickle.loads(data)  # noqa: S301  # from our own replica
        if not isinstance(request, Request):
            raise TypeError(f"a Request was expected, not a {type(request).__name__}")
        return request


@dataclass(frozen=True, slots=True)
class End:
    """How a child ended, as the supervisor saw it."""

    code: int  # its exit code, negative for the signal that ended it
    peak_memory_bytes: int
    taken: bool  # the child had begun to look at what it should run
    report: Ending | None  # what the child itself said, if it could

    def packed(self) -> bytes:
        """Return it as bytes."""
        report = None if self.report is None else _fields(self.report)
        return json.dumps([self.code, self.peak_memory_bytes, self.taken, report]).encode()

    @staticmethod
    def unpacked(data: bytes) -> End:
        """Return what `packed` packed."""
        code, peak_memory_bytes, taken, report = json.loads(data)
        return End(code, peak_memory_bytes, taken, None if report is None else _ending(report))


class Board:
    """Memory that a supervisor and its child share.  One writes the reason to stop, the other its report."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, LONGEST_REASON + LONGEST_REPORT + 1)

    @property
    def taken(self) -> bool:
        """Whether the child has its request, so that something of the run may have begun."""
        return self._memory[-1] != 0

    def put_taken(self) -> None:
        """Write that the child has its request."""
        self._memory[-1] = 1

    def put_reason(self, reason: bytes) -> None:
        """Write why the child shall end."""
        self._put(0, reason[: LONGEST_REASON - _LENGTH.size])

    def reason(self) -> str:
        """Return why the child shall end; empty if nobody said so."""
        return self._get(0, LONGEST_REASON).decode("utf-8", "replace")

    def put_report(self, ending: Ending) -> None:
        """Write how the function ended."""
        self._put(LONGEST_REASON, json.dumps(_fields(ending)).encode())

    def report(self) -> Ending | None:
        """Return how the function ended; None if that was not reported."""
        data = self._get(LONGEST_REASON, LONGEST_REPORT)
        with contextlib.suppress(ValueError, TypeError, KeyError):  # a job may have scribbled over it
            return _ending(json.loads(data)) if data else None
        return None

    def _put(self, at: int, data: bytes) -> None:
        start = at + _LENGTH.size
        self._memory[start : start + len(data)] = data
        self._memory[at:start] = _LENGTH.pack(len(data))  # last: who reads a length finds all of it

    def _get(self, at: int, limit: int) -> bytes:
        start = at + _LENGTH.size
        (length,) = _LENGTH.unpack(self._memory[at:start])
        return self._memory[start : start + min(length, limit - _LENGTH.size)]


def _fields(ending: Ending) -> dict[str, Any]:
    return {
        "state": ending.state.value,
        "error": ending.error,
        "exit_code": ending.exit_code,
        "result": ending.result,
        "final": ending.final,
        "retry_seconds": ending.retry_seconds,
    }


def _ending(fields: Mapping[str, Any]) -> Ending:
    return Ending(**{**fields, "state": State(fields["state"])})
