"""Takes an event in: known operation, valid request, seen before or not, and on disk when it returns."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from engines.errors import FlexError
from handlers.base import Claim, Fault, Handler, Request
from service.access import Principal
from service.event import Event, digests
from service.jobs import links, new_id
from service.ledger.base import Ledger
from service.ledger.records import Accepted, Busy, IdReused, LedgerUnavailable, QueueFull, Submission

CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
ID_LENGTH = 256
SOURCE_LENGTH = 1024
SOURCE_BYTES = 1024
"""In UTF-8; with the id it makes a key, which PostgreSQL keeps below 2700 bytes."""
FAULTS_TOLD = 100
"""A request can be wrong in thousands of places; nobody reads more than these."""
MOST_ITEMS = 10_000


@dataclass
class Refused(Exception):
    """An event that is not accepted: HTTP status, stable code, what to do, and a pointer per fault."""

    status: int
    code: str
    detail: str
    faults: tuple[Fault, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    retry_after: int | None = None

    def __str__(self) -> str:
        return self.detail


class Intake:
    """The one way in, whichever door an event came by."""

    def __init__(
        self,
        ledger: Ledger,
        handlers: Mapping[str, Handler[Any]],
        refuse_url: Callable[[str], str | None],
        *,
        max_attempts: int = 3,
        look_again: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`refuse_url` says why a callback URL cannot be called, or None. `look_again` reads anew what collections
        there are: another replica may have declared the one that a request names, and its hint not have come yet."""
        self._ledger = ledger
        self._handlers = handlers
        self._refuse_url = refuse_url
        self._max_attempts = max_attempts
        self._look_again = look_again

    @property
    def handlers(self) -> Mapping[str, Handler[Any]]:
        return self._handlers

    async def accept(self, event: Event, principal: Principal, reply: str | None = None) -> Accepted:
        """Returns when the event is on disk. Raises `Refused`, `LedgerUnavailable`.

        `reply` is where a message wants to be told of the end, a `destinations.reply_url`.
        """
        try:
            submission = self.submission(event, principal, reply)
        except Refused as refused:
            if self._look_again is None or all(fault.pointer != "/collection" for fault in refused.faults):
                raise
            await self._look_again()
            submission = self.submission(event, principal, reply)
        answer = await self._ledger.accept(submission)
        if isinstance(answer, Accepted):
            return answer
        raise refusal_of(answer, submission)

    def submission(self, event: Event, principal: Principal, reply: str | None = None) -> Submission:
        """What `accept` would hand to the ledger. Raises `Refused`."""
        handler = self.handler(event.operation)
        if not principal.may_ask_for(event.operation):
            raise Refused(
                403,
                "operation_not_allowed",
                f"A signature alone does not admit {event.operation!r}; send the request with a token.",
            )
        if not principal.may_speak_for(event.source):
            fault = Fault("/source", "Sources below /flexdb belong to FlexDB's own callers; use one of yours.")
            raise Refused(400, "invalid_event", fault.detail, (fault,))
        _refuse_odd_ids(event)
        request = self._request(event, handler)
        if principal.kind != "token" and (why := handler.wants_token(request)):
            raise Refused(403, "operation_not_allowed", why)
        return self._submission(event, handler, request, reply)

    async def room(self) -> int:
        """How many events would be taken now, as far as the ledger goes; 0 while it is away."""
        try:
            return await self._ledger.room()
        except LedgerUnavailable:
            return 0

    def handler(self, operation: str) -> Handler[Any]:
        """Raises `Refused` (404) for an unknown operation."""
        try:
            return self._handlers[operation]
        except KeyError:
            known = ", ".join(sorted(self._handlers))
            raise Refused(404, "unknown_operation", f"There is no such operation; known are: {known}.") from None

    def _submission(self, event: Event, handler: Handler[Any], request: Request, reply: str | None) -> Submission:
        data = to_json(event.data).decode()
        if "\\u0000" in data:
            _refuse_nul(event.data)
        try:
            digest, join_digest = digests(event.operation, event.data)
        except ValueError:  # 1e400 is JSON, and infinite to who reads it as floating point
            raise _invalid([Fault("", "A number in it is beyond 1.8e308; send it as text.")]) from None
        return Submission(
            job_id=new_id(),
            source=event.source,
            event_id=event.id,
            operation=event.operation,
            connection=handler.connection(request),
            data=data,
            digest=digest,
            join_digest=join_digest,
            claims=self._claims(handler, request),
            callback_url=request.callback_url,
            reply=reply,
            on_conflict=request.on_conflict,
            max_attempts=request.max_attempts or self._max_attempts,
            deadline_seconds=request.deadline_seconds,
            expires_at=event.expires_at,
        )

    def _request(self, event: Event, handler: Handler[Any]) -> Request:
        _refuse_masses(event.data)
        try:
            request = handler.request_model.model_validate(event.data)  # as the attempt will
        except ValidationError as error:
            raise _invalid(faults_of(error)) from None
        try:
            faults = list(handler.faults(request))
        except FlexError as error:
            raise _invalid([Fault("", f"{error.message} {error.hint}")]) from error
        if request.callback_url is not None and (why := self._refuse_url(request.callback_url)):
            faults.append(Fault("/callback_url", why))
        if faults:
            raise _invalid(faults)
        return request

    def _claims(self, handler: Handler[Any], request: Request) -> tuple[Claim, ...]:
        try:
            return handler.claims(request)
        except FlexError as error:
            raise _invalid([Fault("/connection", f"{error.message} {error.hint}")]) from error


def faults_of(error: ValidationError) -> list[Fault]:
    """A fault per thing the model refused; the refused values are not repeated."""
    return [
        Fault("".join(f"/{escaped(part)}" for part in item["loc"]), item["msg"])
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def escaped(part: int | str) -> str:
    """One step of a JSON pointer (RFC 6901)."""
    return str(part).replace("~", "~0").replace("/", "~1")


def _invalid(faults: list[Fault]) -> Refused:
    detail = "The request is not valid: " + faults[0].detail
    return Refused(422, "invalid_request", detail, tuple(faults[:FAULTS_TOLD]))


def _refuse_masses(data: Mapping[str, Any]) -> None:
    """Before the model sees it: it makes an error object of every wrong item, gigabytes of them from one body."""
    total = 0
    todo: list[tuple[str, Any]] = [("", data)]
    while todo:
        pointer, value = todo.pop()
        total += len(value)
        if total > MOST_ITEMS:
            detail = f"A request holds at most {MOST_ITEMS} fields and items in all; send it in several."
            raise _invalid([Fault(pointer, detail)])
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        todo += [(f"{pointer}/{escaped(name)}", inner) for name, inner in pairs if isinstance(inner, dict | list)]


def _refuse_nul(value: Any, pointer: str = "") -> None:
    """U+0000, which is nowhere of use and which not every database holds; sought where the text may have one."""
    if isinstance(value, str) and "\0" in value:
        raise _invalid([Fault(pointer, "A text may not hold the character U+0000.")])
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_nul(name, pointer)
            _refuse_nul(inner, f"{pointer}/{escaped(name)}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _refuse_nul(inner, f"{pointer}/{number}")


def _refuse_odd_ids(event: Event) -> None:
    for name, value, longest in (("id", event.id, ID_LENGTH), ("source", event.source, SOURCE_LENGTH)):
        if not value or len(value) > longest or CONTROL.search(value):
            detail = f"The event's {name} must have 1 to {longest} characters, none of them a control character."
            raise Refused(400, "invalid_event", detail, (Fault(f"/{name}", detail),))
    if len(event.source.encode()) > SOURCE_BYTES:
        detail = f"The event's source may have {SOURCE_BYTES} bytes in UTF-8; percent-encode or shorten it."
        raise Refused(400, "invalid_event", detail, (Fault("/source", detail),))


def refusal_of(answer: IdReused | Busy | QueueFull, submission: Submission) -> Refused:
    """The ledger's refusal as callers are told of it."""
    match answer:
        case IdReused(job_id, accepted):
            return Refused(
                409,
                "id_reused",
                "This id was accepted before with other data; use a new id for a new request.",
                extra={"job_id": job_id, "digest": submission.digest, "accepted_digest": accepted},
            )
        case Busy(job_id):
            return Refused(
                409,
                "target_busy",
                "Another job is open on the same target; wait for it, or use on_conflict queue or join.",
                extra={"job_id": job_id, "links": links(job_id)},
            )
        case QueueFull(open_jobs):
            return Refused(
                429,
                "queue_full",
                f"{open_jobs} jobs are open, which is the limit; try again later.",
                retry_after=5,
            )
