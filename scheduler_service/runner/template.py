"""The process that runs of `isolation: process` are forked from.

It has our package loaded, one thread, and none of the service's descriptors, locks or sessions: a fork of
it takes milliseconds, where a new interpreter takes hundreds, and where a fork of the service itself would
copy whatever its other threads are in the middle of.  It never loads a job.

    replica --socket: a channel and a pipe--> template --fork--> supervisor --fork--> child

It ends when the socket does, and with its replica: a process that a job in a thread forked may hold a copy
of the socket's other end for long.  `scheduler_service.runner.process` starts it.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket

from scheduler_service.runner import kernel
from scheduler_service.runner.channel import Channel
from scheduler_service.runner.supervisor import supervise

# With the path of the replica, so that jobs find the packages that they find there.
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3])\n"
    "from scheduler_service.runner.template import main\n"
    "sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))"
)
REQUEST = b"\n"  # comes with two descriptors: the channel's other end, and the pipe for the output


def main(descriptor: int, replica_id: int) -> int:
    """Fork a supervisor for each request, until the replica is gone; return the exit code."""
    requests = socket.socket(fileno=descriptor)
    replica = kernel.watch(replica_id)
    if os.getppid() != replica_id:
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the replica, not by a terminal's Ctrl+C
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors need no burial
    # Objects that no collection touches stay in memory that parent and children share.
    gc.disable()
    gc.freeze()
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    if replica is not None:
        poll.register(replica, select.POLLIN)
    while True:
        if replica in {descriptor for descriptor, _ in poll.poll()}:
            return 0
        try:
            data, descriptors, _, _ = socket.recv_fds(requests, 1, 2)
        except ConnectionError:
            return 0
        if not data:
            return 0
        channel, output = descriptors
        if os.fork() == 0:
            requests.close()
            os.dup2(1, 2)  # to nowhere: whoever reads our stderr asks what ended us
            supervise(Channel(socket.socket(fileno=channel)), output, replica)
        os.close(channel)
        os.close(output)
