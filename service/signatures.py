"""Standard Webhooks 1.0 signatures, made and checked over raw bytes.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Sequence
from enum import StrEnum

PREFIX = "whsec_"


class SignatureFault(StrEnum):
    MISSING = "missing_signature"
    MALFORMED = "malformed_signature"
    STALE = "stale_signature"
    MISMATCH = "bad_signature"


class SignatureRefused(Exception):
    def __init__(self, fault: SignatureFault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail


def decode_secret(secret: str) -> bytes:
    """The key bytes of `whsec_<base64>`; raises `ValueError` without the secret in its text."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a webhook secret is whsec_ followed by base64") from None
    if not key:
        raise ValueError("a webhook secret must not be empty")
    return key


def _mac(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{message_id}.{timestamp}.".encode("utf-8", "surrogateescape") + body
    # Not the one-shot hmac.digest: it gives the interpreter lock away even for short bodies, and must wait for it.
    return base64.b64encode(hmac.new(key, signed, "sha256").digest()).decode()


def sign(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one `v1,…` per secret (`whsec_…`), separated by single spaces."""
    return " ".join(f"v1,{_mac(decode_secret(s), message_id, str(timestamp), body)}" for s in secrets)


def verify(
    keys: Iterable[bytes],
    message_id: str | None,
    timestamp: str | None,
    signature: str | None,
    body: bytes,
    *,
    now: float,
    tolerance: float,
) -> None:
    """Raise `SignatureRefused` unless one of `keys` made one of the signatures, lately.

    What is not a `v1,<base64>` entry is passed over. Comparison takes constant time.
    """
    if not message_id or not timestamp or not signature:
        raise SignatureRefused(SignatureFault.MISSING, "webhook-id, webhook-timestamp and webhook-signature are needed")
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 15:
        raise SignatureRefused(SignatureFault.MALFORMED, "webhook-timestamp must be whole seconds since the epoch")
    if abs(now - int(timestamp)) > tolerance:
        raise SignatureRefused(SignatureFault.STALE, f"webhook-timestamp is more than {tolerance:g} seconds off")
    given = [entry[3:].encode("utf-8", "surrogateescape") for entry in signature.split(" ") if entry.startswith("v1,")]
    if not given:
        raise SignatureRefused(SignatureFault.MALFORMED, "webhook-signature holds no v1,<base64> entry")
    expected = [_mac(key, message_id, timestamp, body).encode() for key in keys]
    matches = [hmac.compare_digest(mine, theirs) for mine in expected for theirs in given]
    if not any(matches):
        raise SignatureRefused(SignatureFault.MISMATCH, "no signature in webhook-signature matches")
