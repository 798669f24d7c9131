"""One attempt at one delivery by HTTP: signed, bounded in time and size, judged by the tables of `verdicts`.

The body is the CloudEvent in structured form, the same bytes on every try. It is sent as `application/json`,
not `application/cloudevents+json`: n8n's webhook parses a body only when its type is exactly that, and leaves
`+json` types as an empty object, while a CloudEvents receiver can read the same JSON whatever its label.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import http
import time
from collections.abc import Callable, Sequence

import aiohttp
import structlog

from service.ledger.records import Delivery, Verdict
from service.outgoing import (
    OutgoingPolicy,
    OutgoingRefused,
    Purpose,
    connection_fault,
    exact_url,
    outgoing_session,
)
from service.signatures import sign
from service.verdicts import Answer, Pace, judge, parse_retry_after

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/json"
JWT_SECONDS = 300
ANSWER_BYTES = 16 * 1024
"""What is read of an answer; enough for the texts the tables look for."""
ANSWER_SECONDS = 3.0
"""How long an answer's body is waited for once its status is known: the status decides, not the body."""


def flexdb_signature(secret: str, body: bytes) -> str:
    """`sha256=<hex HMAC-SHA256 of the body>`, keyed with the secret's text as configured, `whsec_` included.

    This is what tools can check into which a secret is pasted as text (n8n's Crypto node); Standard Webhooks
    uses the decoded bytes instead.
    """
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def bearer(secret: str, event_id: str, body: bytes, now: float) -> str:
    """An HS256 JWT for one attempt, valid five minutes, bound to the body by its SHA-256."""
    import jwt  # with its cryptography it is dear, and most services send no bearer

    issued = int(now)
    claims = {
        "iss": "flexdb",
        "iat": issued,
        "exp": issued + JWT_SECONDS,
        "jti": event_id,
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return jwt.encode(claims, secret, algorithm="HS256")


class WebhookSender:
    """Sends deliveries. `secrets` are as configured (`whsec_…`), the first one signs `x-flexdb-signature`.

    Raises `ValueError` for a secret that cannot sign and for a JWT secret of less than 32 bytes. Close it
    when done.
    """

    def __init__(
        self,
        policy: OutgoingPolicy,
        secrets: Sequence[str],
        *,
        jwt_secret: str | None = None,
        timeout: float = 15.0,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if jwt_secret is not None and len(jwt_secret.encode()) < 32:
            raise ValueError("the JWT secret must have 32 bytes or more")
        if jwt_secret is not None:
            bearer(jwt_secret, "", b"", 0)  # what cannot sign must show at start, and what is imported for it then
        sign(secrets, "", 0, b"")  # a bad secret must show at start, not in every delivery
        self._policy = policy
        self._secrets = tuple(secrets)
        self._jwt_secret = jwt_secret
        self._timeout = timeout
        self._pace = pace or Pace()
        self._clock = clock
        self._sessions: dict[Purpose, aiohttp.ClientSession] = {}

    @property
    def timeout(self) -> float:
        """Seconds after which an attempt has ended whatever happened."""
        return self._timeout

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def headers(self, delivery: Delivery, now: float) -> dict[str, str]:
        """What an attempt made now carries; only timestamp, signature and bearer differ between tries."""
        stamp = int(now)
        found = {
            "Content-Type": CONTENT_TYPE,
            "webhook-id": delivery.event_id,
            "webhook-timestamp": str(stamp),
        }
        if self._secrets:
            found["webhook-signature"] = sign(self._secrets, delivery.event_id, stamp, delivery.body)
            found["x-flexdb-signature"] = flexdb_signature(self._secrets[0], delivery.body)
        has_user = exact_url(delivery.url).raw_user is not None  # it makes an Authorization header of its own
        if self._jwt_secret is not None and not has_user:
            token = bearer(self._jwt_secret, delivery.event_id, delivery.body, now)
            found["Authorization"] = f"Bearer {token}"
        return found

    async def attempt(self, delivery: Delivery) -> Verdict:
        """Send once and say what follows. Never raises for anything the receiver or the network does."""
        at, began = self._clock(), time.monotonic()
        answer = await self._send(delivery, at)
        took = (time.monotonic() - began) * 1000
        now = self._clock() if delivery.taken_at is None else delivery.taken_at
        status, wait, why = judge(delivery, answer, self._pace, now)
        verdict = Verdict(at, answer.http_status, _error_text(answer, why), took, status, wait)
        log.info(
            "delivery_attempted",
            delivery_id=delivery.delivery_id,
            job_id=delivery.job_id,
            event_id=delivery.event_id,
            event_type=delivery.event_type,
            kind=delivery.kind,
            destination=delivery.destination,
            number=delivery.attempts + 1,
            http_status=verdict.http_status,
            error=verdict.error,
            milliseconds=round(took, 1),
            follows=status.value,
            retry_after=round(wait, 2),
        )
        return verdict

    async def _send(self, delivery: Delivery, now: float) -> Answer:
        purpose: Purpose = "callback" if delivery.kind == "callback" else "subscription"
        reason = self._policy.refuse_literal(delivery.url, purpose)
        if reason is not None:
            return Answer(None, error=reason, refused=True)
        try:
            return await self._post(delivery, purpose, now)
        except OutgoingRefused as error:
            return Answer(None, error=str(error), refused=True)
        except aiohttp.InvalidURL:
            return Answer(None, error="the URL cannot be called", refused=True)
        except TimeoutError:
            return Answer(None, error=f"no answer within {self._timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: an answer that is not HTTP
            return Answer(None, error=connection_fault(error, "the receiver"))

    async def _post(self, delivery: Delivery, purpose: Purpose, now: float) -> Answer:
        limit = aiohttp.ClientTimeout(total=self._timeout)
        session = self._session(purpose)
        async with session.post(
            exact_url(delivery.url),
            data=delivery.body,
            headers=self.headers(delivery, now),
            allow_redirects=False,
            timeout=limit,
        ) as response:
            wait = parse_retry_after(response.headers.get("Retry-After"), self._clock())
            body = await _beginning(response)
            return Answer(response.status, body, wait)

    def _session(self, purpose: Purpose) -> aiohttp.ClientSession:
        if purpose not in self._sessions:
            self._sessions[purpose] = outgoing_session(self._policy, purpose)
        return self._sessions[purpose]


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """The beginning of an answer's body, as much as came in time; the status stands without it."""
    read = bytearray()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while len(read) < ANSWER_BYTES:
                chunk = await response.content.read(ANSWER_BYTES - len(read))
                if not chunk:
                    break
                read += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        log.debug("answer_cut_short", http_status=response.status, bytes=len(read))
    return read.decode("utf-8", "replace")


def _error_text(answer: Answer, why: str) -> str | None:
    """None for a success. The receiver's own words are left out: they often quote the URL called."""
    if answer.http_status is None:
        return answer.error
    if 200 <= answer.http_status < 300 and not why:
        return None
    try:
        phrase = http.HTTPStatus(answer.http_status).phrase
    except ValueError:
        phrase = "unknown status"
    return f"{answer.http_status} {phrase}" + (f": {why}" if why else "")
