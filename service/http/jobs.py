"""Jobs by HTTP: list, one, cancel, retry, and its events as they happen."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import msgspec
from aiohttp import web

from handlers.supplies import Rejected
from service.http.keys import PARTS, Parts
from service.http.paging import page_response, refuse_unknown, wished_limit
from service.http.problems import BEGUN, problem
from service.http.waiting import has_left
from service.intake import Refused
from service.jobs import ENDED, Job, Status, links, new_id
from service.ledger.records import CancelOutcome, HistoryEntry, LedgerUnavailable

KEEP_ALIVE_SECONDS = 15.0
POLL_SECONDS = 2.0


def no_such_job() -> Refused:
    return Refused(404, "job_not_found", "There is no such job; ended jobs are kept FLEXDB_KEEP_JOBS days.")


async def _job(request: web.Request) -> Job:
    job = await request.app[PARTS].ledger.job(request.match_info["id"])
    if job is None:
        raise no_such_job()
    return job


def _shown(parts: Parts, job: Job) -> dict[str, Any]:
    return job.as_json(parts.hub.latest(job.job_id))


async def list_jobs(request: web.Request) -> web.Response:
    """GET /jobs: newest first, filtered by status, operation and connection."""
    parts, query = request.app[PARTS], request.query
    status = query.get("status")
    refuse_unknown("status", status, Status)
    operation = query.get("operation")
    refuse_unknown("operation", operation, parts.intake.handlers)
    page = await parts.ledger.jobs(
        status=status,
        operation=operation,
        connection=query.get("connection"),
        cursor=query.get("cursor") or None,
        limit=wished_limit(query),
    )
    return page_response(request, page, lambda job: _shown(parts, job))


async def show_job(request: web.Request) -> web.Response:
    """GET /jobs/{id}."""
    return web.json_response(_shown(request.app[PARTS], await _job(request)))


async def list_rejected(request: web.Request) -> web.Response:
    """GET /jobs/{id}/rejected: records an ingest did not take in, with the reasons, in the order they came."""
    parts, query = request.app[PARTS], request.query
    job = await _job(request)
    page = await parts.ledger.rejected(job.job_id, cursor=query.get("cursor") or None, limit=wished_limit(query))
    return page_response(request, page, _shown_rejected, encode=lambda body: msgspec.json.encode(body).decode())


def _shown_rejected(one: Rejected) -> dict[str, Any]:
    """The record as JSON, its numbers digit by digit; as text where it is no JSON, or was cut."""
    record: Any = one.record
    with contextlib.suppress(msgspec.DecodeError):
        record = msgspec.json.decode(record, type=msgspec.Raw)
    return {"page": one.page, "position": one.position, "record": record, "reasons": [dict(why) for why in one.reasons]}


async def cancel_job(request: web.Request) -> web.Response:
    """POST /jobs/{id}/cancel: 202 when it is canceled or asked to stop."""
    parts, job_id = request.app[PARTS], request.match_info["id"]
    outcome = await parts.ledger.request_cancel(job_id)
    if outcome is None:
        raise no_such_job()
    if outcome is CancelOutcome.ENDED:
        job = await _job(request)
        raise Refused(409, "job_ended", f"The job has ended, {job.status.value}.", extra={"job_id": job_id})
    if outcome is CancelOutcome.REQUESTED:
        parts.cancel_now(job_id)
    return web.json_response(_shown(parts, await _job(request)), status=202)


async def retry_job(request: web.Request) -> web.Response:
    """POST /jobs/{id}/retry: 202 with the new job."""
    parts, job_id = request.app[PARTS], request.match_info["id"]
    answer = await parts.ledger.retry_job(job_id, new_id())
    if answer is None:
        raise no_such_job()
    if isinstance(answer, Status):
        return problem(
            409,
            "job_not_retryable",
            f"Only failed and canceled jobs are retried; this one is {answer.value}.",
            job_id=job_id,
        )
    made = await parts.ledger.job(answer.job_id)
    assert made is not None  # noqa: S101  for mypy: it was committed a moment ago
    body = {
        "job_id": made.job_id,
        "event_id": made.event_id,
        "operation": made.operation,
        "status": answer.status.value,
        "duplicate": False,
        "links": links(made.job_id, job_id),
    }
    return web.json_response(body, status=202, headers={"Location": f"/jobs/{made.job_id}"})


async def stream_events(request: web.Request) -> web.StreamResponse:
    """GET /jobs/{id}/events: server-sent events, the history first, closed after the terminal event."""
    job = await _job(request)
    stream = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await stream.prepare(request)
    request[BEGUN] = stream
    # Without the ledger (the service stops) the stream ends early: readers come back with Last-Event-ID.
    with contextlib.suppress(ConnectionResetError, LedgerUnavailable):  # a reader that has gone misses nothing
        await _stream(request, job.job_id, stream)
    return stream


async def _stream(request: web.Request, job_id: str, stream: web.StreamResponse) -> None:
    parts, loop = request.app[PARTS], asyncio.get_running_loop()
    seen, ended, spoke = await _seq_of(parts, job_id, request.headers.get("Last-Event-ID")), False, loop.time()
    with parts.hub.following(job_id) as follower:
        while not ended and not has_left(request):
            job = await parts.ledger.job(job_id)
            ended = job is None or job.status in ENDED  # asked before the history, so that nothing is missed
            for entry in await parts.ledger.history(job_id, seen):
                seen = entry.seq
                if entry.event is not None:
                    await stream.write(_message(entry.event_type, entry.event, entry.event_id))
                    spoke = loop.time()
            progress = follower.take_progress()
            if progress is not None and not ended:
                await stream.write(_message(progress.type, progress.body.decode(), None))
                spoke = loop.time()
            if loop.time() - spoke >= KEEP_ALIVE_SECONDS:
                await stream.write(b": still here\n\n")
                spoke = loop.time()
            if not ended:
                await follower.wait(POLL_SECONDS)


async def _seq_of(parts: Parts, job_id: str, event_id: str | None) -> int:
    """Where the history goes on after `event_id`; 0 (the start) when it is not of this job."""
    if event_id is None:
        return 0
    entries: list[HistoryEntry] = await parts.ledger.history(job_id)
    return next((entry.seq for entry in entries if entry.event_id == event_id), 0)


def _message(kind: str | None, data: str, event_id: str | None) -> bytes:
    lines = [f"event: {kind}"] + ([f"id: {event_id}"] if event_id else [])
    compact = json.dumps(json.loads(data), ensure_ascii=False)  # one line, as the format wants it
    return ("\n".join([*lines, f"data: {compact}"]) + "\n\n").encode()
