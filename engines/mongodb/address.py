"""Where a MongoDB database is: the connection's URL, parsed without asking anybody."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from engines.base import Target
from engines.errors import InvalidTarget

SCHEMES = ("mongodb", "mongodb+srv")
SRV = "mongodb+srv"
USUAL_PORT = 27017
LONGEST_NAME = 63
"""Bytes of a database's name. https://www.mongodb.com/docs/manual/reference/limits/#naming-restrictions"""
FORBIDDEN = frozenset('/\\. "$\0')
SYSTEM = frozenset({"admin", "config", "local"})
OWN = re.compile(r"^flexdb_(scratch|new)_(.+)$", re.DOTALL)
"""Databases FlexDB makes for itself; the job's id is the second group."""
LOCAL = "localhost"


def scratch_name(job_id: str) -> str:
    return f"flexdb_scratch_{job_id}"[:LONGEST_NAME]


@dataclass(frozen=True, slots=True)
class Address:
    """A server (or set of servers) and one database on it; `database` is empty where the URL names none."""

    url: str = field(repr=False)
    hosts: tuple[tuple[str, int | None], ...]
    srv: bool
    database: str
    options: dict[str, Any] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises `InvalidTarget`; the message never holds any part of the URL that could be a secret."""
        scheme, _, rest = url.partition("://")
        if scheme not in SCHEMES:
            raise InvalidTarget("The connection's URL does not begin with mongodb:// or mongodb+srv://.")
        try:  # SRV names are resolved when a session is opened, not here
            found = parse_uri(f"mongodb://{rest}", warn=False)
        except (PyMongoError, ValueError, TypeError, OSError):  # their texts may repeat the URL
            raise InvalidTarget(
                "The connection's URL is not one MongoDB understands.",
                hint="Write mongodb://USER:PASSWORD@HOST:PORT/DATABASE?OPTIONS, user and password percent-encoded, "
                "options spelled as MongoDB's manual does; files that TLS options name must be there.",
            ) from None
        if scheme == SRV:
            _refuse_srv(rest)
        database = found["database"] or ""
        if found["collection"]:
            raise InvalidTarget("The name of the database in the connection's URL holds a dot.")
        if database:
            refuse_name(database)
        hosts = tuple((host, port) for host, port in found["nodelist"])
        password = found["password"] or ""
        given = str(found["options"].get("tlsCertificateKeyFilePassword") or "")
        return cls(url, hosts, scheme == SRV, database, dict(found["options"]), tuple(filter(None, (password, given))))

    @classmethod
    def of(cls, target: Target) -> Address:
        """The target's database, which may be another one than its URL names (`into`)."""
        return cls.parse(target.url.get_secret_value()).with_database(target.database)

    def with_database(self, name: str) -> Address:
        return Address(self.url, self.hosts, self.srv, name, self.options, self.secrets)

    def user_database(self) -> str:
        """The database's name; raises `InvalidTarget` where the URL names none, or one of the server's own."""
        if not self.database:
            raise InvalidTarget(
                "The connection's URL names no database, and this needs one.",
                hint="End the URL's host with /DATABASE, or name it with `into` (restore).",
            )
        if self.database in SYSTEM:
            raise InvalidTarget(
                f"{self.database!r} is a database of the server itself.",
                hint="Name a user database in the URL; where users log in with `admin`, add ?authSource=admin.",
            )
        return self.database

    @property
    def host(self) -> str:
        """The hosts as claims name them: sorted, every way to say "this machine" is `localhost`."""
        if self.srv:
            return f"srv:{self.hosts[0][0].lower().rstrip('.')}"
        names = sorted((_plain_host(host), port or USUAL_PORT) for host, port in self.hosts)
        if len(names) == 1:
            return names[0][0]
        return ",".join(f"{host}:{port}" for host, port in names)

    @property
    def port(self) -> int | None:
        """None where several hosts, or a DNS record, have ports of their own."""
        return None if self.srv or len(self.hosts) > 1 else self.hosts[0][1] or USUAL_PORT

    @property
    def shown(self) -> str:
        """For messages."""
        return self.host if self.port is None else f"{self.host}:{self.port}"


def refuse_name(name: str) -> None:
    """Raise `InvalidTarget` for what cannot be a database's name."""
    if not name or FORBIDDEN & set(name):
        raise InvalidTarget('A MongoDB database name is not empty and holds no space, NUL or any of / \\ . " $')
    if len(name.encode()) > LONGEST_NAME:
        raise InvalidTarget(f"A MongoDB database name has at most {LONGEST_NAME} bytes.")


def refuse_reserved(name: str) -> None:
    """Raise `InvalidTarget` for a name that is the server's, or FlexDB's own."""
    refuse_name(name)
    if name in SYSTEM or OWN.match(name):
        raise InvalidTarget(f"The name {name!r} is kept for MongoDB's or FlexDB's own use.")


def _refuse_srv(rest: str) -> None:
    """https://www.mongodb.com/docs/manual/reference/connection-string/#srv-connection-format"""
    hosts = urlsplit(f"mongodb://{rest}").netloc.rpartition("@")[2]
    if "," in hosts or ":" in hosts:
        raise InvalidTarget("A mongodb+srv:// URL names one host, without a port.")


def _plain_host(host: str) -> str:
    if host.startswith("/"):  # a socket on this machine
        return host
    host = host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return LOCAL if address.is_loopback else str(address)
