"""HTTP: health for probes, metrics, the API, the status page.

    /livez /readyz /leader   for probes and load balancers: no query
    /metrics                 Prometheus
    /api/v1/…                for scripts; writing needs the bearer token
    /                        for people

It runs on a thread of its own, off the election's path, with a database connection of its own and short
time-outs: whoever asks for a page holds up nothing but that page.
"""

from scheduler_service.web.server import PortUnavailableError, Server
from scheduler_service.web.view import View, view_of

__all__ = ["PortUnavailableError", "Server", "View", "view_of"]
