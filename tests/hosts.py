"""A host of its own for a process, in a network namespace: it can vanish without a word to anybody.

Two ends of a wire, one in the namespace; when the host vanishes each end sends to a machine that is not
there.  Nobody is told: no FIN, no RST, no carrier lost, no route gone.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import os
import shutil
import subprocess
from typing import Self

_NETWORKS = ipaddress.ip_network("198.18.0.0/15")  # set apart for tests (RFC 2544); we take four addresses at a time
_NOWHERE = "02:00:00:00:00:01"  # of no machine
_numbers = itertools.count(1)


class Host:
    """A network namespace, which reaches us as `here` and is reached as `address`; needs root and `ip`."""

    def __init__(self) -> None:
        number = next(_numbers)
        self.name = f"scheduler-{os.getpid()}-{number}"
        # An interface's name has 15 characters at most, and test runs may be at work side by side.
        self._wire = f"sch{os.getpid() % 10**7}-{number}"
        self._far_end = "wire"
        network = _NETWORKS[4 * ((8 * os.getpid() + number) % 2**15)]
        self.here, self.address = str(network + 1), str(network + 2)

    @property
    def entry(self) -> tuple[str, ...]:
        """What to put before a command so that it runs on this host."""
        return ("ip", "netns", "exec", self.name)

    def vanish(self) -> None:
        """Lose every packet from and to it from now on."""
        self._near("neigh", "replace", self.address, "lladdr", _NOWHERE, "nud", "permanent", "dev", self._wire)
        self._far("neigh", "replace", self.here, "lladdr", _NOWHERE, "nud", "permanent", "dev", self._far_end)

    def return_(self) -> None:
        """Lose nothing any more."""
        self._near("neigh", "del", self.address, "dev", self._wire)
        self._far("neigh", "del", self.here, "dev", self._far_end)

    def __enter__(self) -> Self:
        self._near("netns", "add", self.name)
        try:
            wire = ("type", "veth", "peer", "name", self._far_end, "netns", self.name)
            self._near("link", "add", self._wire, *wire)
            self._near("addr", "add", f"{self.here}/30", "dev", self._wire)
            self._near("link", "set", self._wire, "up")
            self._far("addr", "add", f"{self.address}/30", "dev", self._far_end)
            self._far("link", "set", self._far_end, "up")
            self._far("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove it, and the wire with it."""
        _ip("link", "del", self._wire, check=False)
        _ip("netns", "del", self.name, check=False)

    def _near(self, *words: str) -> None:
        _ip(*words)

    def _far(self, *words: str) -> None:
        _ip("-n", self.name, *words)


@functools.cache
def why_no_hosts() -> str | None:
    """Return why there can be no hosts here, None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "no ip here (Debian: apt-get install iproute2)"
    try:
        with Host():
            return None
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True, text=True)
