"""Watch over one child, from its fork to its grave.

A process between the template and the job, in a session of its own.  It is the child's parent, so it
alone can reap it, and signals it without ever hitting another process that got its number.  It is also
the guardian: when the replica goes, by SIGKILL even, the channel ends, and the child's group is killed.
It goes on when the template dies, so that this costs no run.

It runs no code of the job, and only reads what the child leaves on the board, after the child's end.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from typing import NoReturn

from scheduler_service.runner import child, kernel
from scheduler_service.runner.channel import ASK, ENDED, KILL, RUN, STARTED, WATCHING, Board, Channel, End
from scheduler_service.runner.group import LOOK_SECONDS, bury, signal_group

_DEAF_TO = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)  # the end of the channel is what it listens to


def supervise(channel: Channel, output: int, replica: int | None) -> NoReturn:
    """Fork a child, have it run what the channel asks for, and end.

    `output` is the child's stdout and stderr; `replica` becomes readable when the replica has ended.
    """
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in _DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    kernel.adopt_orphans()
    channel.send(WATCHING)
    board = Board()
    orders, their_orders = map(Channel, socket.socketpair())
    supervisor = os.getpid()
    process_id = os.fork()
    if process_id == 0:
        orders.close()
        if replica is not None:
            os.close(replica)
        child.run(their_orders, board, channel, output, supervisor)
    their_orders.close()
    os.close(output)
    # Until the child has a group of its own, no signal would reach it by the group's number.
    orders.ready()
    orders.receive()
    _watch(process_id, channel, orders, board, replica)


def _watch(process_id: int, channel: Channel, orders: Channel, board: Board, replica: int | None) -> NoReturn:
    channel.send(STARTED, str(process_id).encode())
    ended = kernel.watch(process_id)
    poll = select.poll()
    for descriptor in (channel.fileno(), replica, ended):
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
    look_milliseconds = LOOK_SECONDS * 1000 if ended is None else None
    alone = False
    while not alone and os.waitid(os.P_PID, process_id, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        ready = {descriptor for descriptor, _ in poll.poll(look_milliseconds)}
        if channel.fileno() in ready:
            frame = channel.receive()
            if frame is None:
                alone = True
            elif frame[0] == RUN:
                orders.send(*frame)
                orders.close()
            elif frame[0] == ASK:
                board.put_reason(frame[1])
                signal_group(process_id, signal.SIGTERM)
            elif frame[0] == KILL:
                signal_group(process_id, signal.SIGKILL)
        alone = alone or replica in ready
    signal_group(process_id, signal.SIGKILL)
    _, status, usage = os.wait4(process_id, 0)
    bury(process_id)
    peak_memory_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    end = End(os.waitstatus_to_exitcode(status), peak_memory_bytes, board.taken, board.report())
    channel.send(ENDED, end.packed())
    os._exit(0)
