"""Where a MySQL or MariaDB database is, and what drivers and client programs are told of that."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from engines.base import Target
from engines.errors import InvalidTarget

SCHEMES = ("mysql", "mariadb")
LOCAL = "localhost"
DEFAULT_PORT = 3306
LONGEST_NAME = 64
"""Characters of a database's name."""
CONNECT_SECONDS = 10
TLS_MODES = {
    "disabled": "disabled",
    "disable": "disabled",
    "preferred": "preferred",
    "prefer": "preferred",
    "required": "required",
    "require": "required",
    "verify_ca": "verify_ca",
    "verify_identity": "verify_identity",
    "verify_full": "verify_identity",
}
"""What `ssl-mode` may say, in MySQL's words and in libpq's."""
OPTIONS = frozenset({"ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "socket"})
HINT = "Write mysql://USER:PASSWORD@HOST:PORT/DATABASE, each part percent-encoded."
ENCODE_HINT = "Percent-encode the user name and the password: @ is %40, / is %2F, : is %3A, ? is %3F."


@dataclass(frozen=True, slots=True)
class Address:
    """One database of one server, decoded."""

    server: str
    """As the URL names it: a host name or an address."""
    port_number: int
    user: str
    password: str = field(repr=False)
    database: str
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises `InvalidTarget`; the message never holds any part of the URL that could be a secret."""
        try:
            parts = urlsplit(url)
            port = parts.port or DEFAULT_PORT
        except ValueError:
            raise InvalidTarget("The connection's URL cannot be read.", hint=ENCODE_HINT) from None
        rest = f"{parts.path}?{parts.query}#{parts.fragment}"
        if parts.netloc.count("@") > 1 or ("@" in rest and "@" not in parts.netloc) or parts.fragment:
            raise InvalidTarget("The connection's URL holds an @ or a # where none belongs.", hint=ENCODE_HINT)
        database = unquote(parts.path.removeprefix("/"))
        if parts.scheme not in SCHEMES or not database:
            raise InvalidTarget("The connection's URL names no MySQL or MariaDB database.", hint=HINT)
        refuse_name(database)
        return cls(
            server=unquote(parts.hostname or "") or LOCAL,
            port_number=port,
            user=unquote(parts.username or "") or "root",
            password=unquote(parts.password or ""),
            database=database,
            options=_options(parts.query),
        )

    @classmethod
    def of(cls, target: Target) -> Address:
        """The target's database, which may be another one than its URL names (`into`)."""
        return cls.parse(target.url.get_secret_value()).with_database(target.database)

    def with_database(self, name: str) -> Address:
        return replace(self, database=name)

    @property
    def socket(self) -> str | None:
        return self.options.get("socket")

    @property
    def host(self) -> str:
        """The host as claims name it: every way to say "this machine" is `localhost`."""
        return _plain_host(self.server) if self.socket is None else LOCAL

    @property
    def port(self) -> int:
        return self.port_number

    @property
    def tls(self) -> str:
        return self.options.get("ssl-mode", "preferred")

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.password,) if self.password else ()

    def for_driver(self) -> dict[str, Any]:
        """Keyword arguments of `pymysql.connect`, but for the database and time limits."""
        # bytes: the driver would encode a text as Latin-1, and fail for other letters
        where: dict[str, Any] = {"user": self.user, "password": self.password.encode(), "charset": "utf8mb4"}
        where |= {"connect_timeout": CONNECT_SECONDS}
        if self.socket is not None:
            return where | {"unix_socket": self.socket, "ssl_disabled": True}
        where |= {"host": self._resolvable, "port": self.port_number}
        if self.tls == "disabled":
            return where | {"ssl_disabled": True}
        return where if self.tls == "preferred" else where | {"ssl": self._context()}

    @property
    def _resolvable(self) -> str:
        """Client programs take `localhost` for a socket, the driver for an address; both get the address."""
        return "127.0.0.1" if self.server.lower() == LOCAL else self.server

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.options.get("ssl-ca"))
            if "ssl-cert" in self.options:
                context.load_cert_chain(self.options["ssl-cert"], self.options.get("ssl-key"))
        except (OSError, ssl.SSLError) as error:
            raise InvalidTarget(f"The connection's TLS files cannot be used: {type(error).__name__}.") from error
        context.check_hostname = self.tls == "verify_identity"
        if self.tls == "required":
            context.verify_mode = ssl.CERT_NONE
        return context

    @contextmanager
    def options_file(self, folder: Path, *, mariadb: bool) -> Iterator[Path]:
        """A file of mode 0600 for `--defaults-file`, with the password in it, as long as a program needs it.

        https://mariadb.com/kb/en/configuring-mariadb-with-option-files/
        """
        path = folder / ("mariadb.cnf" if mariadb else "mysql.cnf")
        lines = {"user": self.user, "password": self.password}
        if self.socket is not None:
            lines |= {"socket": self.socket, "protocol": "socket"}
        else:
            lines |= {"host": self._resolvable, "port": str(self.port_number), "protocol": "tcp"}
            lines |= self._tls_lines(mariadb=mariadb)
        text = "[client]\n" + "".join(f'{name}="{_escaped(value)}"\n' for name, value in lines.items())
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _tls_lines(self, *, mariadb: bool) -> dict[str, str]:
        files = {name: value for name, value in self.options.items() if name in {"ssl-ca", "ssl-cert", "ssl-key"}}
        if not mariadb:
            return {"ssl-mode": self.tls.upper(), **files}
        if self.tls == "disabled":
            return {"ssl": "0"}
        # Newer MariaDB clients verify unless told not to, older ones do not unless told to.
        return {"ssl": "1", "ssl-verify-server-cert": "1" if self.tls.startswith("verify") else "0", **files}


def _escaped(value: str) -> str:
    r"""Inside double quotes option files know `\\`, `\n` and so on; a `#` begins no comment there."""
    for plain, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        value = value.replace(plain, written)
    return value


def _options(query: str) -> dict[str, str]:
    """The query part of the URL; `_` may stand for `-`. Raises `InvalidTarget` for what is not known."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        plain = {"sslmode": "ssl-mode"}.get(name.lower(), name.lower().replace("_", "-"))
        if plain not in OPTIONS:
            raise InvalidTarget(
                f"The connection's URL has an option that is not known: {name[:40]!r}.",
                hint=f"Known are: {', '.join(sorted(OPTIONS))}.",
            )
        found[plain] = value
    if "ssl-mode" in found:
        mode = TLS_MODES.get(found["ssl-mode"].lower().replace("-", "_"))
        if mode is None:
            raise InvalidTarget(
                "The connection's ssl-mode is not known.",
                hint="It is one of disabled, preferred, required, verify-ca, verify-identity.",
            )
        found["ssl-mode"] = mode
    return found


def refuse_name(name: str) -> None:
    """Raise `InvalidTarget` for what cannot be, or must not be used as, a database's name."""
    if not name or "\0" in name:
        raise InvalidTarget("A database name is not empty and holds no NUL character.")
    if len(name) > LONGEST_NAME:
        raise InvalidTarget(f"A database name has at most {LONGEST_NAME} characters.")
    if name.endswith(" ") or any(ord(letter) > 0xFFFF for letter in name):
        raise InvalidTarget("A database name neither ends with a space nor holds characters beyond U+FFFF.")


def _plain_host(host: str) -> str:
    host = host.strip().lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host or LOCAL
    return LOCAL if address.is_loopback else str(address)
