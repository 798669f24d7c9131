"""Every error as application/problem+json (RFC 9457), with a stable code and what to do."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web

from engines.errors import (
    ArtefactDamaged,
    CalculationRefused,
    CollectionMismatch,
    FlexError,
    ObjectMissing,
    RecordExists,
    StorageFull,
    UnknownBackup,
    UnknownCollection,
)
from handlers.base import Fault
from handlers.collections.preconditions import PreconditionFailed
from handlers.collections.reading import RecordInvalid
from service.access import NotAuthenticated
from service.amqp.redrives import AMQPUnavailable
from service.intake import Refused
from service.ledger.records import InvalidCursor, LedgerUnavailable

log = structlog.get_logger(__name__)

BEGUN = web.RequestKey("begun", web.StreamResponse)
"""The response whose head has been sent: after that a problem can only be told by breaking off."""

CODES: dict[str, str] = {
    "malformed_json": "the body is not JSON in UTF-8",
    "invalid_event": "the CloudEvent lacks an attribute or has a wrong one",
    "invalid_request": "a field is missing, unknown or wrong; `errors` points at each",
    "not_authenticated": "neither a token nor a signature was shown",
    "invalid_token": "the token is wrong",
    "missing_signature": "a webhook header is missing",
    "malformed_signature": "the signature headers cannot be read",
    "stale_signature": "the signed timestamp is too far off",
    "bad_signature": "no configured secret made this signature",
    "operation_not_allowed": "a signature alone does not admit this operation",
    "unknown_operation": "there is no such operation",
    "not_found": "there is no such route",
    "job_not_found": "there is no such job",
    "delivery_not_found": "there is no such delivery",
    "subscription_not_found": "there is no such subscription",
    "dead_letter_not_found": "there is no such dead letter",
    "schedule_not_found": "there is no such schedule",
    "incoming_not_found": "there is no such uploaded dump",
    "incoming_exists": "a dump of that name was uploaded before, or is being uploaded now",
    "record_not_found": "the collection has no record of this key",
    "precondition_failed": "the record is not in the state that If-Match or If-None-Match asks for",
    "collection_fixed": "a file, or FlexDB itself, declares the collection; callers cannot change it",
    "method_not_allowed": "the route does not take this method",
    "unsupported_media_type": "the content type is not one the route takes",
    "too_large": "the body is larger than FLEXDB_MAX_BODY_BYTES",
    "id_reused": "the id was accepted before with other data",
    "job_ended": "the job has ended and cannot be canceled",
    "job_not_retryable": "only failed and canceled jobs can be retried",
    "queue_full": "FLEXDB_QUEUE_LIMIT jobs are open",
    "ledger_unavailable": "the ledger cannot be written; nothing was accepted",
    "rabbitmq_not_configured": "there is no RabbitMQ: FLEXDB_AMQP_URL is not set",
    "rabbitmq_unavailable": "RabbitMQ does not answer or does not admit the service; nothing was changed",
    "bad_request": "the request cannot be read",
}
"""Codes of refusals at the door. Codes of failed jobs are the classes of `engines.errors` and those below."""

JOB_CODES: dict[str, str] = {
    "canceled": "the job was canceled",
    "expired": "the job had not started by its `expirytime`",
    "deadline_exceeded": "the job did not end within `deadline_seconds`",
    "worker_lost": "the service died again and again while it ran this job",
}


def all_codes() -> dict[str, str]:
    """Every code a caller can meet, at the door or in a failed event, and what it means."""
    errors: dict[str, str] = {}
    todo: list[type[FlexError]] = [FlexError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.code != "stopped":
            errors.setdefault(kind.code, kind.default_hint)
    return CODES | JOB_CODES | dict(sorted(errors.items()))


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    faults: Iterable[Fault] = (),
    pointer: str = "",
    headers: dict[str, str] | None = None,
    **extra: Any,
) -> web.Response:
    """One problem as a response; `pointer` is where the data lies in the body (`/data` for CloudEvents)."""
    return web.Response(
        status=status,
        body=json.dumps(problem_body(status, code, detail, faults=faults, pointer=pointer, **extra)).encode(),
        content_type="application/problem+json",
        headers=headers,
    )


def problem_body(
    status: int, code: str, detail: str, *, faults: Iterable[Fault] = (), pointer: str = "", **extra: Any
) -> dict[str, Any]:
    """The members of a problem, as RFC 9457 names them."""
    body: dict[str, Any] = {
        "type": f"/docs#{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    errors = [{"pointer": f"#{pointer}{fault.pointer}", "detail": fault.detail} for fault in faults]
    return body | ({"errors": errors} if errors else {}) | extra


def refusal_body(refused: Refused, pointer: str) -> dict[str, Any]:
    return problem_body(
        refused.status, refused.code, refused.detail, faults=refused.faults, pointer=pointer, **refused.extra
    )


def refusal(refused: Refused, pointer: str = "") -> web.Response:
    """A refused event as a response."""
    headers = {"Retry-After": str(refused.retry_after)} if refused.retry_after else None
    return web.Response(
        status=refused.status,
        body=json.dumps(refusal_body(refused, pointer)).encode(),
        content_type="application/problem+json",
        headers=headers,
    )


_HTTP_CODES = {
    404: ("not_found", "There is no such route; GET /openapi.json lists them."),
    405: ("method_not_allowed", "This route does not take this method; see Allow."),
    413: ("too_large", "The body is larger than this service takes; send references, not data."),
    415: ("unsupported_media_type", "The content type is not one this route takes."),
}


_STATUSES: dict[type[FlexError], int] = {
    UnknownBackup: 404,
    ObjectMissing: 404,
    UnknownCollection: 404,
    ArtefactDamaged: 409,
    CollectionMismatch: 409,
    RecordExists: 409,
    StorageFull: 507,
}


def _status_of(error: FlexError) -> int:
    found = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), None)
    return found or (503 if error.retryable else 422)


def of_exception(error: Exception) -> web.Response | None:
    """The one table from exceptions to problems; None for what nobody foresaw."""
    match error:
        case Refused():
            return refusal(error)
        case NotAuthenticated():
            headers = {"WWW-Authenticate": 'Bearer realm="flexdb"'}
            return problem(401, error.code, error.detail, headers=headers)
        case LedgerUnavailable():
            detail = "The ledger cannot be written now; nothing was accepted. Try again."
            return problem(503, "ledger_unavailable", detail, headers={"Retry-After": "5"})
        case AMQPUnavailable():
            detail = f"RabbitMQ cannot be used now: {error}. Nothing was changed; see that it runs, then try again."
            return problem(503, "rabbitmq_unavailable", detail, headers={"Retry-After": "5"})
        case InvalidCursor():
            detail = "The cursor is not one this service gave out; start without it."
            return problem(422, "invalid_request", detail, faults=[Fault("/cursor", detail)])
        case RecordInvalid():
            return problem(422, "invalid_request", f"The request is not valid: {error}", faults=error.faults)
        case PreconditionFailed():
            return problem(412, "precondition_failed", str(error))
        case CalculationRefused():
            return problem(422, error.code, f"{error.message}. {error.hint}", reason=error.reason)
        case FlexError():
            status = _status_of(error)
            later = {"Retry-After": "5"} if status == 503 else None
            return problem(status, error.code, f"{error.message} {error.hint}", headers=later)
        case web.HTTPException():
            code, detail = _HTTP_CODES.get(error.status, ("bad_request", "The request cannot be read."))
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return problem(error.status, code, detail, headers=allow)
    return None


def of_any(request: web.Request, error: Exception) -> web.Response:
    """A problem for every exception; the unforeseen is logged whole and told in one sentence."""
    found = of_exception(error)
    if found is None:
        route = str(request.match_info.route.resource)
        log.error("request_failed", method=request.method, route=route, exc_info=error)
        found = problem(500, "internal_error", "Something went wrong here; the service's log has the details.")
    return found


def item_body(request: web.Request, error: Exception) -> dict[str, Any]:
    """The problem of one item of a batch."""
    response = of_any(request, error)
    assert isinstance(response.body, bytes)  # noqa: S101  for mypy: `problem` made it of bytes
    body: dict[str, Any] = json.loads(response.body)
    return body


def cut_off(request: web.Request, begun: web.StreamResponse, error: Exception) -> web.StreamResponse:
    """End a response that cannot be completed so that the reader notices: the connection breaks off."""
    if not isinstance(error, ConnectionError):  # a reader that went away is no news
        log.error("response_cut_off", route=str(request.match_info.route.resource), exc_info=error)
    if request.transport is not None:
        request.transport.abort()
    return begun


Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def problems(request: web.Request, handler: Handle) -> web.StreamResponse:
    """Turns every exception into a problem."""
    try:
        return await handler(request)
    except Exception as error:
        if isinstance(error, web.HTTPException) and error.status < HTTPStatus.BAD_REQUEST:
            raise
        begun = request.get(BEGUN)
        if begun is not None:
            return cut_off(request, begun, error)
        told = of_any(request, error)
        if request.content.exception() is not None:  # nobody knows where the next request would begin
            told.force_close()
        return told
