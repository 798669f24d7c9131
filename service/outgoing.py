"""Where outgoing calls may go: URLs and resolved addresses are checked before anything is connected.

A URL comes with an event, so whoever may send events could otherwise make this service knock at its own
network (server-side request forgery). Literal addresses are refused at the door; names are resolved once,
every address that comes back is checked, and only checked ones are connected to, so that a name which
changes its mind between check and connect (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from service import __version__

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Purpose = Literal["callback", "subscription", "source"]
"""`callback`: the URL of an event. `subscription`: set up by an operator. `source`: read by an ingest."""

USER_AGENT = f"FlexDB/{__version__}"

_HOST_NAME = re.compile(r"^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$")
HOST_NAME_LENGTH = 253
"""What DNS allows (RFC 1035)."""
_PRINTABLE = re.compile(r"^[\x21-\x7e]+$")

_NEVER_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10",  # shared by providers and their customers; one cloud's metadata service is in it
        "168.63.129.16/32",  # a cloud's host agent on an otherwise public address
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays: leads anywhere
        "198.18.0.0/15",
        "64:ff9b:1::/48",  # NAT64 prefixes of local networks
        "100::/64",
        "5f00::/16",
        "3fff::/20",
        "fec0::/10",  # the old site-local range, which `ipaddress` does not call private
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_V4_COMPATIBLE = ipaddress.IPv6Network("::/96")


class OutgoingRefused(aiohttp.ClientError):
    """This service does not connect there. The text names the host, never the URL's path or query."""


def embedded(address: Address) -> list[Address]:
    """The address itself, and the IPv4 addresses that a network may read out of an IPv6 one."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    found: list[Address | None] = [address, address.sixtofour]
    found += list(address.teredo or ())
    if address in _NAT64 or (address in _V4_COMPATIBLE and int(address) > 1):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


def literal_address(host: str) -> Address | None:
    """The address a host is a literal of, read as `getaddrinfo` would: `127.1`, `0x7f000001`, `017700000001`
    and `2130706433` are all 127.0.0.1. None for a name."""
    bare = host.rstrip(".")
    try:
        return ipaddress.ip_address(bare.strip("[]").partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(bare))
    except (OSError, UnicodeEncodeError):
        return None


def _is_public(address: Address) -> bool:
    if address.is_multicast or address.is_reserved or address.is_unspecified or not address.is_global:
        return False
    return not any(address in network for network in _NEVER_PUBLIC if network.version == address.version)


@dataclass(frozen=True, slots=True)
class OutgoingPolicy:
    """Which hosts outgoing calls may reach although their addresses are not public."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    loopback_for_callbacks: bool = False
    """While nothing is configured and the service itself is only heard on loopback, webhooks may go there."""

    @classmethod
    def of(cls, allow: Iterable[str], *, loopback_for_callbacks: bool = False) -> OutgoingPolicy:
        """From words that are host names, addresses or networks; raises `ValueError` for any other."""
        hosts, networks = set[str](), list[Network]()
        for word in allow:
            try:
                networks.append(ipaddress.ip_network(word.strip("[]"), strict=False))
            except ValueError as error:
                if not _HOST_NAME.match(word.lower()) or literal_address(word) is not None:
                    raise ValueError(f"{word!r} is neither a host name, an address nor a network") from error
                hosts.add(word.lower())
        return cls(frozenset(hosts), tuple(networks), loopback_for_callbacks)

    def admits(self, address: Address, purpose: Purpose, host: str = "") -> bool:
        """Whether an address that `host` resolved to may be connected to."""
        if host.lower().rstrip(".") in self.hosts:
            return True
        plain = (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address
        if any(plain in network for network in self.networks):
            return True
        if plain.is_loopback and self.loopback_for_callbacks and purpose != "source":
            return True
        readings = embedded(plain)
        return all(_is_public(reading) for reading in readings if not _is_wrapper(reading))

    def refuse_literal(self, url: str, purpose: Purpose) -> str | None:
        """Why a URL cannot be called, without any lookup; None when it may (names are judged at connect).

        The reason is a sentence without the URL in it.
        """
        if not _PRINTABLE.match(url):
            return "The URL may hold printable ASCII characters only; percent-encode all others."
        try:
            parsed = URL(url, encoded=True)
            host = parsed.raw_host
        except ValueError:
            return "This is not a valid URL."
        if parsed.scheme not in ("http", "https"):
            return "The URL must begin with http:// or https://."
        if not host:
            return "The URL names no host."
        address = literal_address(host)
        if address is None:
            valid = len(host) <= HOST_NAME_LENGTH and _HOST_NAME.match(host.lower().rstrip("."))
            return None if valid else "The URL's host is not a valid name."
        if self.admits(address, purpose):
            return None
        return f"The address {address} is not public; FLEXDB_OUTGOING_ALLOW names those that may be reached."


def _is_wrapper(reading: Address) -> bool:
    """A NAT64 address is not global as such; what counts is the IPv4 address inside."""
    return reading in _NAT64


class GuardedResolver(AbstractResolver):
    """Resolves a name and lets through only addresses the policy admits; raises `OutgoingRefused` if none is.

    Lookups run in threads of their own, so that a name server that hangs holds up nothing else.
    """

    THREADS = 32

    def __init__(self, policy: OutgoingPolicy, purpose: Purpose) -> None:
        self._policy = policy
        self._purpose: Purpose = purpose
        self._threads = ThreadPoolExecutor(self.THREADS, thread_name_prefix="resolve")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads,
            lambda: socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM),
        )
        admitted = [
            ResolveResult(
                hostname=host,
                host=str(sockaddr[0]),
                port=port,
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, proto, _, sockaddr in found
            if self._policy.admits(ipaddress.ip_address(str(sockaddr[0]).partition("%")[0]), self._purpose, host)
        ]
        if not admitted:
            raise OutgoingRefused(
                f"{host} has no public address; FLEXDB_OUTGOING_ALLOW names those that may be reached"
            )
        return admitted

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _GuardedConnector(aiohttp.TCPConnector):
    """Ends its resolver's threads when it is closed; aiohttp leaves a resolver that it was given as it is."""

    def __init__(self, resolver: GuardedResolver, *, force_close: bool) -> None:
        super().__init__(resolver=resolver, limit=0, force_close=force_close, ttl_dns_cache=10, use_dns_cache=True)
        self._guarded = resolver

    async def close(self, *, abort_ssl: bool = False) -> None:
        await super().close(abort_ssl=abort_ssl)
        await self._guarded.close()


def outgoing_session(policy: OutgoingPolicy, purpose: Purpose, *, keep_alive: bool = False) -> aiohttp.ClientSession:
    """A client session that reaches only what the policy admits; close it when done.

    It reads no proxy or netrc from the environment and keeps no cookies. Give it URLs
    built by `exact_url`. Each request has a connection of its own: a kept one that the receiver has just
    closed would look like a failure. With `keep_alive` connections are kept, for many requests to one host
    that may be sent twice.
    """

    async def guard(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        # aiohttp asks no resolver about literal addresses, so they are judged here, on every hop.
        reason = policy.refuse_literal(str(request.url), purpose)
        if reason is not None:
            raise OutgoingRefused(reason)
        return await send(request)

    return aiohttp.ClientSession(
        connector=_GuardedConnector(GuardedResolver(policy, purpose), force_close=not keep_alive),
        middlewares=(guard,),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )


def exact_url(url: str) -> URL:
    """The URL as given, byte for byte: nothing decoded or normalised (its query may be a token)."""
    return URL(url, encoded=True)


def connection_fault(error: Exception, other: str) -> str:
    """What went wrong with `other` (the receiver, the source), without the URL: texts of some errors quote it,
    and its query may be a token."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host's name could not be resolved"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return f"TLS: the certificate or handshake of {other} is not acceptable"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{type(error).__name__}: {error.strerror}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return f"{other} closed the connection without an answer"
    return type(error).__name__
