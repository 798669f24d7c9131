"""Where a PostgreSQL database is and how sessions on it are opened; the one door for its driver's errors."""

from __future__ import annotations

import ipaddress
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case
from psycopg2.extensions import make_dsn, parse_dsn

from engines.base import Target
from engines.command import redact
from engines.errors import (
    AccessDenied,
    FlexError,
    InvalidTarget,
    TargetBusy,
    TargetMissing,
    TargetUnavailable,
    ToolFailed,
)
from engines.run import StopToken

SCHEMES = ("postgresql", "postgres")
LOCAL = "localhost"
SOCKET_FOLDERS = frozenset({"/var/run/postgresql", "/run/postgresql", "/tmp"})  # noqa: S108  libpq's own defaults
LONGEST_NAME = 63
"""Bytes; the server cuts longer names silently, and then means another database."""
SECRETS = ("password", "sslpassword")
DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
TLS_MODES = frozenset({"require", "verify-ca", "verify-full"})
LIBPQ_VARIABLES = (
    *("PGPASSFILE", "PGSERVICEFILE", "PGSYSCONFDIR", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"),
    *("PGSSLCRL", "PGSSLNEGOTIATION", "PGCHANNELBINDING", "PGGSSENCMODE", "PGKRBSRVNAME", "PGREQUIREAUTH"),
    *("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD"),
)
"""What libpq reads in this process; tools get the same, so that both doors lead to the same server."""


@dataclass(frozen=True, slots=True)
class Address:
    """libpq connection parameters of one database, decoded."""

    parameters: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises `InvalidTarget`; the message never holds any part of the URL that could be a secret."""
        _refuse_unencoded(url)
        try:
            parameters = parse_dsn(url)
        except (psycopg2.Error, ValueError, UnicodeError):  # their texts repeat the URL
            raise InvalidTarget(
                "The connection's URL is not one PostgreSQL understands.",
                hint="Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, each part percent-encoded.",
            ) from None
        ports = parameters.get("port", "").split(",")
        if any(port and not (port.isdigit() and 0 < int(port) < 65536) for port in ports):
            raise InvalidTarget("The port in the connection's URL is not a number from 1 to 65535.")
        if not parameters.get("dbname"):
            raise InvalidTarget("The connection's URL names no database.", hint="End it with /DATABASE.")
        if "sslpassword" in parameters and "service" in parameters:
            raise InvalidTarget("sslpassword and service cannot be used together in a connection's URL.")
        refuse_name(parameters["dbname"])
        return cls({name: str(value) for name, value in parameters.items()})

    @classmethod
    def of(cls, target: Target) -> Address:
        """The target's database, which may be another one than its URL names (`into`)."""
        return cls.parse(target.url.get_secret_value()).with_database(target.database)

    def with_database(self, name: str) -> Address:
        return Address({**self.parameters, "dbname": name})

    @property
    def database(self) -> str:
        return self.parameters["dbname"]

    @property
    def host(self) -> str:
        """The host as claims name it: every way to say "this machine" is `localhost`."""
        named = self.parameters.get("host") or self.parameters.get("hostaddr") or os.environ.get("PGHOST", "")
        return ",".join(_plain_host(host) for host in named.split(","))

    @property
    def port(self) -> int | None:
        """None when several hosts have ports of their own."""
        named = self.parameters.get("port") or os.environ.get("PGPORT") or "5432"
        return int(named) if named.isdigit() else None

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(self.parameters[name] for name in SECRETS if self.parameters.get(name))

    @property
    def wants_tls(self) -> bool:
        mode = self.parameters.get("sslmode") or os.environ.get("PGSSLMODE", "")
        return mode in TLS_MODES or self.parameters.get("sslnegotiation") == "direct"

    def dsn(self, application_name: str) -> str:
        """Everything, for the driver. Of the form `key=value …`, so that no name is read as anything else."""
        return str(make_dsn(**{**DEFAULTS, **self.parameters, "application_name": application_name}))

    def for_tools(self, application_name: str, workspace: Path) -> tuple[str, dict[str, str]]:
        """What client programs get: `--dbname=` without secrets, and the environment with them.

        A key file's password has no variable of its own; it goes by a service file of mode 0600.
        """
        public = {name: value for name, value in self.parameters.items() if name not in SECRETS}
        environment = {name: os.environ[name] for name in LIBPQ_VARIABLES if name in os.environ}
        if "password" in self.parameters:
            environment["PGPASSWORD"] = self.parameters["password"]
        if "sslpassword" in self.parameters:
            public["service"] = "flexdb"
            environment["PGSERVICEFILE"] = str(_service_file(workspace, self.parameters["sslpassword"]))
        return str(make_dsn(**{**DEFAULTS, **public, "application_name": application_name})), environment


def _service_file(workspace: Path, secret: str) -> Path:
    """https://www.postgresql.org/docs/current/libpq-pgservice.html"""
    path = workspace / "pg_service.conf"
    path.touch(mode=0o600)
    path.write_text(f"[flexdb]\nsslpassword={secret}\n")
    return path


def refuse_name(name: str) -> None:
    """Raise `InvalidTarget` for what cannot be, or must not be used as, a database's name."""
    if not name or "\0" in name:
        raise InvalidTarget("A database name is not empty and holds no NUL character.")
    if len(name.encode()) > LONGEST_NAME:
        raise InvalidTarget(f"A PostgreSQL database name has at most {LONGEST_NAME} bytes.")


def _refuse_unencoded(url: str) -> None:
    """A raw `/`, `?` or `@` in the password moves what follows into other parts, and so into messages."""
    hint = "Percent-encode the user name and the password: @ is %40, / is %2F, : is %3A, ? is %3F."
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidTarget("The connection's URL cannot be read.", hint=hint) from None
    if parts.scheme not in SCHEMES:
        raise InvalidTarget("The connection's URL does not begin with postgresql://.")
    rest = f"{parts.path}?{parts.query}#{parts.fragment}"
    if parts.netloc.count("@") > 1 or ("@" in rest and "@" not in parts.netloc):
        raise InvalidTarget("The connection's URL holds an @ where none belongs.", hint=hint)


def _plain_host(host: str) -> str:
    host = host.strip().lower().rstrip(".") if not host.startswith("/") else host
    if host in {"", LOCAL}:
        return LOCAL
    if host.startswith("/"):
        folder = os.path.realpath(host)
        return LOCAL if host in SOCKET_FOLDERS or folder in SOCKET_FOLDERS else folder
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return LOCAL if address.is_loopback else str(address)


def connect(address: Address, application_name: str) -> Connection:
    """Open a connection, errors translated; for those who must tell its failure from what comes after."""
    try:
        return psycopg2.connect(address.dsn(application_name))
    except psycopg2.Error as error:
        raise translated(error, address) from error


@contextmanager
def using(
    opened: Connection, address: Address, *, seconds: float = 60, stop: StopToken | None = None
) -> Iterator[Connection]:
    """Prepare a connection, translate errors raised inside, close it at the end; see `session`."""
    try:
        with _cancelling(opened, stop):
            prepare(opened, seconds)
            yield opened
    except psycopg2.Error as error:
        if stop is not None:
            stop.check()
        raise translated(error, address) from error
    finally:
        opened.close()


@contextmanager
def session(
    address: Address, application_name: str, *, seconds: float = 60, stop: StopToken | None = None
) -> Iterator[Connection]:
    """An autocommit session whose errors, from connecting to closing, come out as `engines.errors`.

    `seconds` limits each statement (0: only `stop` does). A stop cancels the running statement.
    """
    with using(connect(address, application_name), address, seconds=seconds, stop=stop) as opened:
        yield opened


CANCEL_EVERY = 0.2
"""Seconds between two attempts to cancel what a stopped session runs."""


@contextmanager
def _cancelling(opened: Connection, stop: StopToken | None) -> Iterator[None]:
    if stop is None:
        yield
        return
    over = threading.Event()

    def insist() -> None:
        """Again and again: a wish that comes between two statements would find nothing to cancel."""
        while True:
            try:
                opened.cancel()
            except psycopg2.Error:
                return  # closed meanwhile: nothing runs any more
            if over.wait(CANCEL_EVERY):
                return

    with stop.calling(threading.Thread(target=insist, name="cancel statements", daemon=True).start):
        try:
            yield
        finally:
            over.set()


def cancel(opened: Connection) -> None:
    """Cancel what runs on a session, from any thread, without waiting for the network."""

    def ask() -> None:
        try:
            opened.cancel()
        except psycopg2.Error:
            return  # closed meanwhile: nothing runs any more

    threading.Thread(target=ask, name="cancel statement", daemon=True).start()


def prepare(opened: Connection, seconds: float) -> None:
    """Settings every session of ours wants: no surprises from the role's or the database's own."""
    opened.autocommit = True
    with opened.cursor() as cursor:
        cursor.execute(
            "SELECT set_config(name, value, false) FROM (VALUES"
            " ('search_path', 'pg_catalog'), ('statement_timeout', %s), ('lock_timeout', '30s'),"
            " ('idle_in_transaction_session_timeout', '0'), ('idle_session_timeout', '0'),"
            # off: a row-level policy makes a count fail instead of making it wrong
            " ('transaction_timeout', '0'), ('row_security', 'off'))"
            " AS wanted (name, value) JOIN pg_catalog.pg_settings USING (name)",
            (f"{int(seconds * 1000)}ms",),
        )


def rows(opened: Connection, query: Any, parameters: tuple[Any, ...] | dict[str, Any] | None = None) -> list[Any]:
    """All rows a query gives."""
    with opened.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall()


def execute(opened: Connection, statement: Any, parameters: tuple[Any, ...] | None = None) -> None:
    with opened.cursor() as cursor:
        cursor.execute(statement, parameters)


_BY_CODE: tuple[tuple[str, type[FlexError]], ...] = (
    ("28", AccessDenied),
    ("42501", AccessDenied),
    ("3D000", TargetMissing),
    ("53300", TargetBusy),
    ("55006", TargetBusy),
    ("55P03", TargetBusy),
    ("57014", TargetBusy),
    ("40", TargetBusy),
    ("57P", TargetUnavailable),
    ("08", TargetUnavailable),
)
"""SQLSTATE, or its beginning, to what it means for us."""

_BY_WORDS: tuple[tuple[re.Pattern[str], type[FlexError]], ...] = (
    (re.compile(r"authentication failed|no password supplied|pg_hba\.conf|permission denied"), AccessDenied),
    (re.compile(r'role ".*" does not exist|not permitted to log in|certificate|requires? SSL'), AccessDenied),
    (re.compile(r'database ".*" does not exist'), TargetMissing),
    (re.compile(r"too many (clients|connections)|connection slots"), TargetBusy),
    (re.compile(r"invalid (sslmode|connection option|port|integer)|does not support SSL"), InvalidTarget),
)
"""Failed connection attempts carry no SQLSTATE in the driver, so there the words must do."""


def translated(error: psycopg2.Error, address: Address) -> FlexError:
    """The driver's error as one of ours. What fits nothing while connecting counts as unavailable."""
    words = redact(" ".join(str(error).split()), address.secrets)[:500]
    name = redact(address.database, address.secrets)
    for beginning, kind in _BY_CODE:
        if error.pgcode and error.pgcode.startswith(beginning):
            return kind(f"PostgreSQL on database {name!r}: {words}")
    if error.pgcode is None:
        for pattern, kind in _BY_WORDS:
            if pattern.search(words):
                return kind(f"Database {name!r} cannot be opened: {words}")
        return TargetUnavailable(f"Database {name!r} cannot be reached: {words or 'connection lost'}")
    return ToolFailed(
        f"PostgreSQL refused: {words}",
        hint="Read the server's own words in the message.",
        details={"sqlstate": error.pgcode},
    )


_TOOL_WORDS: tuple[tuple[re.Pattern[str], type[FlexError], str], ...] = (
    (
        re.compile(r"due to (statement|lock) timeout|deadlock detected|connection slots|too many clients"),
        TargetBusy,
        "was kept waiting too long by others",
    ),
    (
        re.compile(r'query failed: ERROR:  \w+ ".*" does not exist|cache lookup failed for'),  # pg_dump's words only
        TargetBusy,
        "found something gone that was there when it began",
    ),
    (
        re.compile(
            r"connection to server|server closed the connection|terminating connection|SSL SYSCALL"
            r"|the database system is (starting|shutting)|could not (send|receive) data"
            r'|invalid snapshot identifier|snapshot ".*" does not exist'  # the session that held it was ended
        ),
        TargetUnavailable,
        "lost the server",
    ),
)


@contextmanager
def tools_translated() -> Iterator[None]:
    """Failures of client programs that may pass come out as what a session would have raised."""
    try:
        yield
    except ToolFailed as error:
        words = str(error.details.get("stderr", ""))
        for pattern, kind, what in _TOOL_WORDS:
            if pattern.search(words):
                tool = error.details.get("tool", "the tool")
                raise kind(f"{tool} {what}: {words[-500:]}", details=error.details) from error
        raise
