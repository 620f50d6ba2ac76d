"""Messages come in order, from any thread and from handlers, and a wait for them ends when it shall."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scheduler_service.mailbox import Mailbox

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 30.0
LATE_HANDLER = """
import signal, time
from scheduler_service.mailbox import Mailbox
box, ran = Mailbox(), []
def handler(*_):
    ran.append(time.sleep(0.1))
    {then}
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.05)
deadline = time.monotonic() + 0.06
found = box.get(0.06)
print(found, len(ran), time.monotonic() >= deadline)
"""
STORM = """
import os, signal, threading
from scheduler_service.mailbox import Mailbox
box, sent, handled = Mailbox(), 2000, []
def handler(*_):
    handled.append(1)
    box.put(len(handled))
signal.signal(signal.SIGHUP, handler)
def storm():
    for _ in range(sent):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGHUP)
    box.put(None)
threading.Thread(target=storm).start()
got = []
while (one := box.get(10.0)) is not None:
    got.append(one)
while box:
    got.append(box.get(0.0))
print(len(handled) > 0, got == list(range(1, len(handled) + 1)))
"""


def told_by(program: str) -> str:
    """What a process of its own prints, whose main thread gets signals; it hangs for nobody."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=True)
    return done.stdout.strip()


def test_messages_come_in_order_and_then_none() -> None:
    box: Mailbox[int] = Mailbox()
    for number in range(3):
        box.put(number)
    assert len(box) == 3
    assert [box.get(LIMIT_SECONDS) for _ in range(3)] == [0, 1, 2]
    assert box.get(0.0) is None
    assert not box


def test_whoever_waits_is_woken_by_a_message() -> None:
    box: Mailbox[str] = Mailbox()
    found: list[str | None] = []
    hour = 3600.0
    waiting = threading.Thread(target=lambda: found.extend(box.get(hour) for _ in range(2)), daemon=True)
    waiting.start()
    box.put("first")
    box.put("second")
    waiting.join(LIMIT_SECONDS)
    assert found == ["first", "second"]


def test_a_wait_that_was_not_needed_does_not_shorten_the_next() -> None:
    box: Mailbox[int] = Mailbox()
    box.put(1)
    assert box.get(LIMIT_SECONDS) == 1
    began = time.monotonic()
    assert box.get(0.05) is None
    assert time.monotonic() - began >= 0.05


def test_of_many_who_write_nothing_is_lost() -> None:
    box: Mailbox[tuple[int, int]] = Mailbox()
    writers = [
        threading.Thread(target=lambda who=who: [box.put((who, number)) for number in range(1000)]) for who in range(8)
    ]
    for writer in writers:
        writer.start()
    got = [box.get(LIMIT_SECONDS) for _ in range(8000)]
    assert box.get(0.0) is None
    for who in range(8):
        assert [one[1] for one in got if one is not None and one[0] == who] == list(range(1000))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers that signal here")
def test_a_handler_that_runs_while_the_limit_is_reached_does_not_make_the_wait_endless() -> None:
    assert told_by(LATE_HANDLER.format(then="pass")) == "None 1 True"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers that signal here")
def test_what_a_handler_puts_is_found_though_the_limit_is_reached_before() -> None:
    assert told_by(LATE_HANDLER.format(then="box.put(7)")) == "7 1 True"


def test_what_handlers_put_while_it_is_waited_for_comes_in_order() -> None:
    assert told_by(STORM) == "True True"
