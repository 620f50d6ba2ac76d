"""PgBouncer in front of a server, as a process of its own that may be hurt."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from sqlalchemy import make_url

from tests.servers import START_SECONDS, ServerError, free_port, unprivileged


class Pooler:
    """PgBouncer in transaction mode before the server of `url`."""

    def __init__(self, url: str) -> None:
        self._server = make_url(url)
        self._port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="scheduler-pgbouncer-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the same database, by way of the pooler."""
        return self._server.set(host="127.0.0.1", port=self._port).render_as_string(hide_password=False)

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        users, settings = self._folder / "users", self._folder / "pgbouncer.ini"
        users.write_text('"postgres" ""\n')
        settings.write_text(
            f"""[databases]
* = host={self._server.host} port={self._server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self._port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = 20
server_login_retry = 1
"""
        )
        self._folder.chmod(0o755)  # PgBouncer refuses to run as root, too
        with (self._folder / "log").open("ab") as log:
            command = ["pgbouncer", settings]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **unprivileged()
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"pgbouncer does not answer:\n{(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL it: all its connections end, to clients and to the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_SECONDS)

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True
