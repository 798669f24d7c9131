"""Who may ask for what: a token admits everything, a source's signature admits what writes nothing."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from service.settings import NAME
from service.signatures import SignatureFault, SignatureRefused, decode_secret, verify

SIGNATURE_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")

SIGNED_OPERATIONS = frozenset({"check", "inspection", "preflight", "backup", "verification"})
"""What a signature alone admits; all else wants a token."""


RESERVED = frozenset({"admin", "schedules", "rabbitmq"})
"""Principals of FlexDB's own, whose event ids no signer may use."""


class InvalidSource(ValueError):
    """A FLEXDB_SOURCES__NAME that cannot be used; the text holds no secret."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `kind` is `token` or `source`."""

    name: str
    kind: Literal["token", "source"]

    @property
    def source(self) -> str:
        """The CloudEvents source of plain requests; ids are unique below it."""
        return f"/flexdb/{self.name}"

    def may_ask_for(self, operation: str) -> bool:
        return self.kind == "token" or operation in SIGNED_OPERATIONS

    def may_speak_for(self, source: str) -> bool:
        """Whether an event may come in under this CloudEvents source.

        Ids are unique per source, so a signer that used another caller's could take its ids or be told of its jobs.
        """
        ours = source == "/flexdb" or source.startswith("/flexdb/")
        return self.kind == "token" or not ours or source == self.source


ADMIN = Principal("admin", "token")


class NotAuthenticated(Exception):
    """401: `code` and `detail` for the caller."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Access:
    """Checks credentials against the configured token and sources."""

    def __init__(
        self,
        token: str,
        sources: Mapping[str, str],
        *,
        replay_window: float = 300.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`sources`: name to `standard:whsec_… [whsec_…]`.

        Raises `InvalidSource`, and `ValueError` for an empty token: it would let everybody in.
        """
        self._token = token.strip().encode()
        if not self._token:
            raise ValueError("the token is empty; set FLEXDB_TOKEN, or remove the empty file FLEXDB_HOME/token")
        self._keys = {name: _keys(name, text) for name, text in sources.items()}
        self._window = replay_window
        self._clock = clock

    def by_token(self, headers: Mapping[str, str]) -> Principal | None:
        """The principal of `Authorization: Bearer` or `X-API-Key`, None when neither is there.

        Raises `NotAuthenticated` for a wrong one.
        """
        shown = headers.get("X-API-Key")
        if shown is None:
            scheme, _, credentials = headers.get("Authorization", "").partition(" ")
            if not scheme:
                return None
            shown = credentials.strip() if scheme.lower() == "bearer" else ""
        if hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), self._token):
            return ADMIN
        raise NotAuthenticated("invalid_token", "The token is wrong; the service's own is in FLEXDB_HOME/token.")

    def expect_credentials(self, headers: Mapping[str, str]) -> Principal | None:
        """As `by_token`, None when a signature is to be checked; so strangers are refused before their body is read.

        Raises `NotAuthenticated` when nothing was shown at all.
        """
        principal = self.by_token(headers)
        if principal is None and not any(name in headers for name in SIGNATURE_HEADERS):
            self.refuse()
        return principal

    def by_signature(self, headers: Mapping[str, str], body: bytes) -> Principal:
        """The source whose secret signed the body. Raises `NotAuthenticated`."""
        message_id, timestamp, signature = (headers.get(name) for name in SIGNATURE_HEADERS)
        refused = SignatureRefused(SignatureFault.MISMATCH, "no source is configured: set FLEXDB_SOURCES__NAME")
        for name, keys in self._keys.items():
            try:
                verify(keys, message_id, timestamp, signature, body, now=self._clock(), tolerance=self._window)
            except SignatureRefused as error:
                refused = error
                continue
            return Principal(name, "source")
        raise NotAuthenticated(refused.fault.value, f"The signature was refused: {refused.detail}.")

    def refuse(self) -> NoReturn:
        """Nothing was shown. Raises `NotAuthenticated`."""
        raise NotAuthenticated(
            "not_authenticated",
            "Show the token as `Authorization: Bearer TOKEN` or `X-API-Key: TOKEN`; events may be signed instead.",
        )


def _keys(name: str, text: str) -> tuple[bytes, ...]:
    if name in RESERVED:
        raise InvalidSource(f"FLEXDB_SOURCES__{name.upper()}: FlexDB uses the name {name!r} itself; choose another.")
    scheme, _, secrets = text.partition(":")
    if not NAME.fullmatch(name) or scheme != "standard":
        raise InvalidSource(f"FLEXDB_SOURCES__{name.upper()} must be standard:whsec_…; other schemes are not known.")
    try:
        keys = tuple(decode_secret(secret) for secret in secrets.split())
    except ValueError as error:
        raise InvalidSource(f"FLEXDB_SOURCES__{name.upper()}: {error}.") from None
    if not keys:
        raise InvalidSource(f"FLEXDB_SOURCES__{name.upper()} names no secret.")
    return keys
