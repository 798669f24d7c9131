"""The MariaDB server the suite runs against: the one the environment names, this machine's, else one of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pymysql

from engines.command import TETHER
from tests.memory_folders import data_folder, roomy
from tests.servers import ServerMissingError

VARIABLE = "FLEXDB_TEST_MYSQL_URL"
USUAL = "mysql://root@127.0.0.1:3306/mysql"
SYSTEM_FOLDERS = ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin")
READY_SECONDS = 60.0


def with_database(url: str, database: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path="/" + quote(database, safe="")))


def connected(url: str, database: str | None = None, **options: Any) -> Any:
    """A driver's connection in autocommit, on no database unless one is named; the caller closes it."""
    parts = urlsplit(url)
    options.setdefault("ssl_disabled", "ssl" not in options)  # else every connection reads all of the system's CAs
    return pymysql.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or "root"),
        password=unquote(parts.password or "").encode(),
        database=database,
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=10,
        **options,
    )


def sql(url: str, *statements: str, on: str | None = None) -> list[tuple[Any, ...]]:
    """Run statements on the URL's database (or `on`, or none for `""`); the rows of the last one."""
    database = unquote(urlsplit(url).path.removeprefix("/")) if on is None else on
    with closing(connected(url, database or None)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


def installed_mysql() -> str:
    """URL of a server that answers; raises `ServerMissingError`."""
    url = os.environ.get(VARIABLE) or USUAL
    try:
        sql(url, "SELECT 1", on="")
    except pymysql.Error as error:
        where = urlsplit(url).netloc.rpartition("@")[2]
        raise ServerMissingError(f"no MySQL or MariaDB answers at {where} as {VARIABLE} or root") from error
    return url


@contextmanager
def some_mysql() -> Iterator[None]:
    """See that `installed_mysql` finds a server: Debian's mariadbd is started where none answers, and where there is
    memory for its data.

    The variable is set meanwhile, so that processes of the test runner all use the one server.
    """
    if os.environ.get(VARIABLE) or _program("mariadbd") is None or not (roomy() or _is_missing()):
        yield  # the tests that need it say what is missing
        return
    with ExitStack() as server:
        with suppress(ServerMissingError):  # then the usual one may do, or the tests say what is missing
            os.environ[VARIABLE] = server.enter_context(own_mariadb())
        yield
        os.environ.pop(VARIABLE, None)


def _is_missing() -> bool:
    try:
        installed_mysql()
    except ServerMissingError:
        return True
    return False


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *SYSTEM_FOLDERS)))


@contextmanager
def own_mariadb(*settings: str, under: Path | None = None) -> Iterator[str]:
    """A server of our own on a free port of 127.0.0.1, root without a password; its URL.

    `settings` are further arguments of mariadbd. Everything lies in one temporary folder, made where `under` says.
    Ends with the context, and with this process however that ends.
    """
    server, install = _program("mariadbd"), _program("mariadb-install-db")
    if server is None or install is None:
        raise ServerMissingError("mariadbd is not installed")
    home = Path(tempfile.mkdtemp(prefix="flexdb-mariadb-", dir=under))
    kept = ExitStack()
    try:
        data = home / "data" if under else kept.enter_context(data_folder(home))
        user = ("--user=root",) if os.geteuid() == 0 else ()
        arguments = ("--no-defaults", f"--datadir={data}", *user)
        made = subprocess.run(
            [install, *arguments, "--auth-root-authentication-method=normal", "--skip-test-db"],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "TMPDIR": str(home)},  # else its start deletes every server's temporary tables in /tmp
        )
        if made.returncode:
            raise ServerMissingError(f"mariadb-install-db failed: {made.stderr[-500:] or made.stdout[-500:]}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        listens = (f"--port={port}", "--bind-address=127.0.0.1", f"--socket={home / 'mariadb.sock'}")
        quick = (
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            f"--pid-file={home / 'mariadb.pid'}",
            f"--tmpdir={home}",
        )
        with _tied([server, *arguments, *listens, *quick, *settings], home):
            url = f"mysql://root@127.0.0.1:{port}/mysql"
            _wait_until_ready(url, home)
            yield url
    finally:
        kept.close()
        shutil.rmtree(home, ignore_errors=True)  # the server may still be writing its last words


@contextmanager
def _tied(command: list[str], home: Path) -> Iterator[None]:
    """The server under the same guard that client programs run under."""
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
        os.close(held_by_us)
        guard.wait(timeout=30)


def _wait_until_ready(url: str, home: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            sql(url, "SELECT 1")
        except pymysql.Error as error:
            if time.monotonic() > deadline:
                words = (home / "server.log").read_text(errors="replace")[-500:]
                raise ServerMissingError(f"mariadbd did not start: {words}") from error
            time.sleep(0.05)
        else:
            return
