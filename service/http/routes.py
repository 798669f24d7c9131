"""The route table: every call, who may make it, and what it does. The documents are made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from handlers.registry import handler_classes
from service.http import (
    backups,
    calculator,
    collections,
    dead_letters,
    deliveries,
    docs,
    events,
    health,
    incoming,
    ingest,
    jobs,
    records,
    schedules,
    subscriptions,
)
from service.http.keys import PARTS, Parts
from service.http.problems import problems

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    handle: Handle
    summary: str
    access: str = "token"
    """`open`: nothing asked; `token`; `signed`: a token or a source's signature, checked by the door itself."""
    query: tuple[tuple[str, str], ...] = ()
    """Query parameters and what each means."""
    holds_back: bool = False
    """A caller who asks before the body is sent (`Expect`) is answered by the door itself, after its checks."""


PAGING = (("cursor", "The `next_cursor` of the page before."), ("limit", "Items on a page, 1 to 500; 50 by default."))
JOB_FILTERS = (
    ("status", "queued, running, succeeded, failed or canceled."),
    ("operation", "Name of an operation."),
    ("connection", "Name of a connection."),
)
DELIVERY_FILTERS = (
    ("job_id", "Those of one job."),
    ("status", "pending, delivered or abandoned."),
    ("started", "false: without those that only tell that a job has started."),
)
BACKUP_FILTERS = (
    ("connection", "Name of a connection."),
    ("label", "NAME:VALUE; may be given several times."),
    ("min_level", "Verified at least to this level, 0 to 3."),
    ("whole", "true: only backups of whole databases; false: only parts."),
)
UPLOADED_TO = (("storage", "Name of a configured store; the default one when left out."),)

RECORDS = (
    ("page", "Counted from 1."),
    ("limit", "Records on a page, 1 to 500; 50 by default."),
    ("sort", "FIELD, or -FIELD for descending; several separated by commas."),
    ("cursor", "From the Link to the next page, in place of `page`."),
    ("format", "csv, ndjson or parquet: everything that matches, as a file."),
    (
        "FIELD",
        "Only records with this value; FIELD[ne], [gt], [gte], [lt], [lte] and [null] (true or false) too.",
    ),
)

RECORD_ROUTES: tuple[Route, ...] = (
    Route("GET", "/collections", collections.list_collections, "List collections."),
    Route("GET", "/collections/{name}", collections.show_collection, "Show one collection."),
    Route(
        "PUT",
        "/collections/{name}",
        collections.put_collection,
        "Declare or replace a collection; its table is made or checked.",
        query=(("dry_run", "true: only tell what would be done."),),
    ),
    Route("DELETE", "/collections/{name}", collections.delete_collection, "Forget a collection; its table stays."),
    Route(
        "POST",
        "/api/ingest",
        ingest.post_ingest,
        "Take in records from a source, or from the body as a file.",
        query=(("collection", "Where to, when the body is a file; customers by default."),),
        holds_back=True,
    ),
    Route("GET", "/api/{collection}", records.list_records, "List records, or write all of them out.", query=RECORDS),
    Route("POST", "/api/{collection}", records.create_record, "Make a record."),
    Route("GET", "/api/{collection}/{key}", records.show_record, "Show one record."),
    Route("PUT", "/api/{collection}/{key}", records.replace_record, "Make or replace a record."),
    Route("PATCH", "/api/{collection}/{key}", records.patch_record, "Change some fields of a record."),
    Route("DELETE", "/api/{collection}/{key}", records.delete_record, "Remove a record."),
    Route("GET", "/courses", records.list_records, "List courses, as /api/courses does.", query=RECORDS),
    Route("POST", "/courses", records.create_record, "Make a course."),
    Route("GET", "/courses/{id}", records.show_record, "Show one course."),
    Route("PUT", "/courses/{id}", records.replace_record, "Make or replace a course."),
    Route("PATCH", "/courses/{id}", records.patch_record, "Change some fields of a course."),
    Route("DELETE", "/courses/{id}", records.delete_record, "Remove a course."),
)

STACK = (("stack", "Name of a stack; default when left out."),)
KEPT_BY = (
    ("persistenceMethod", "POSTGRES, MONGO, SQLITE or MYSQL: the connection of that kind."),
    ("connection", "Name of a connection."),
)
OPERATED = (
    *(("operation", "plus, minus, times, divide, pow, abs, fact or fibonacci."), *STACK, *KEPT_BY),
    ("history", "Names of connections that keep it, separated by commas."),
    ("cache", "false: worked out again in any case."),
)

CALCULATOR_ROUTES: tuple[Route, ...] = (
    Route("POST", "/calculator/independent/calculate", calculator.calculate, "Calculate at once."),
    Route("GET", "/calculator/stack/size", calculator.stack_size, "How many arguments a stack has.", query=STACK),
    Route("PUT", "/calculator/stack/arguments", calculator.push, "Push arguments.", query=STACK),
    Route(
        "DELETE",
        "/calculator/stack/arguments",
        calculator.remove,
        "Remove the topmost arguments.",
        query=(("count", "How many."), *STACK),
    ),
    Route(
        "GET", "/calculator/stack/operate", calculator.operate, "Calculate with the topmost arguments.", query=OPERATED
    ),
    Route("POST", "/calculator/stack/operate", calculator.operate, "The same.", query=OPERATED),
    Route(
        "GET",
        "/calculator/history",
        calculator.history,
        "What was calculated, the newest last.",
        query=(
            *KEPT_BY,
            ("flavor", "STACK or INDEPENDENT."),
            ("limit", "Entries to show, 1 to 500; 100 by default."),
            ("before", "Those before this id."),
        ),
    ),
)

ROUTES: tuple[Route, ...] = (
    Route("POST", "/events", events.post_event, "Take a CloudEvent, structured, binary or batched.", "signed"),
    Route(
        "POST",
        "/hooks/{operation}",
        events.post_hook,
        "Take any JSON object as an operation's data.",
        "signed",
    ),
    Route("GET", "/jobs", jobs.list_jobs, "List jobs, newest first.", query=JOB_FILTERS + PAGING),
    Route("GET", "/jobs/{id}", jobs.show_job, "Show one job."),
    Route("POST", "/jobs/{id}/cancel", jobs.cancel_job, "Ask a job to stop."),
    Route("POST", "/jobs/{id}/retry", jobs.retry_job, "Make a new job like a failed or canceled one."),
    Route(
        "GET", "/jobs/{id}/rejected", jobs.list_rejected, "List the records an ingest did not take in.", query=PAGING
    ),
    Route("GET", "/jobs/{id}/events", jobs.stream_events, "Follow a job: server-sent events, the history first."),
    Route(
        "GET",
        "/deliveries",
        deliveries.list_deliveries,
        "List deliveries of events and every attempt.",
        query=DELIVERY_FILTERS + PAGING,
    ),
    Route("POST", "/deliveries/{id}/redeliver", deliveries.redeliver, "Send a delivery again."),
    Route("GET", "/backups", backups.list_backups, "List backups, newest first.", query=BACKUP_FILTERS + PAGING),
    Route("GET", "/backups/{id}", backups.show_backup, "Show one backup with its manifest."),
    Route(
        "GET",
        "/backups/{id}/download",
        backups.download_backup,
        "Download a stored file.",
        query=(("file", "Which one, when the backup has several."),),
    ),
    Route("GET", "/incoming", incoming.list_incoming, "List uploaded dumps not adopted yet.", query=UPLOADED_TO),
    Route(
        "PUT",
        "/incoming/{name}",
        incoming.put_incoming,
        "Upload a dump made by hand, to be adopted.",
        query=(*UPLOADED_TO, ("replace", "true: in place of one uploaded before.")),
        holds_back=True,
    ),
    Route("DELETE", "/incoming/{name}", incoming.delete_incoming, "Remove an uploaded dump.", query=UPLOADED_TO),
    Route("GET", "/subscriptions", subscriptions.list_subscriptions, "List subscriptions."),
    Route("GET", "/subscriptions/{name}", subscriptions.show_subscription, "Show one subscription."),
    Route("PUT", "/subscriptions/{name}", subscriptions.put_subscription, "Make or replace a subscription."),
    Route("DELETE", "/subscriptions/{name}", subscriptions.delete_subscription, "Remove a subscription."),
    Route(
        "GET",
        "/dead-letters",
        dead_letters.list_dead_letters,
        "List messages from RabbitMQ that could not be taken.",
        query=(("limit", "Items to show, 1 to 500; 50 by default."),),
    ),
    Route("GET", "/dead-letters/{id}", dead_letters.show_dead_letter, "Show one of them with its body."),
    Route(
        "POST",
        "/dead-letters/redrive",
        dead_letters.redrive_dead_letters,
        "Send them again to where they came in; a dry run unless told to apply.",
    ),
    Route("GET", "/schedules", schedules.list_schedules, "List schedules."),
    Route("GET", "/schedules/{name}", schedules.show_schedule, "Show one schedule."),
    Route("PUT", "/schedules/{name}", schedules.put_schedule, "Make or replace a schedule."),
    Route("DELETE", "/schedules/{name}", schedules.delete_schedule, "Remove a schedule."),
    *RECORD_ROUTES,
    *CALCULATOR_ROUTES,
    Route("GET", "/livez", health.livez, "Does the process answer.", "open"),
    Route("GET", "/readyz", health.readyz, "Does it take work.", "open"),
    Route("GET", "/health", health.health, "Can every connection be reached."),
    Route("GET", "/metrics", health.metrics, "Numbers for Prometheus."),
    Route("GET", "/openapi.json", docs.openapi, "This interface as OpenAPI 3.1.", "open"),
    Route("GET", "/asyncapi.json", docs.asyncapi, "The events as AsyncAPI 3.0.", "open"),
    Route("GET", "/docs", docs.page, "This interface as a page to read.", "open"),
)


WITHOUT_HEAD = (jobs.stream_events, calculator.operate)
"""GETs that never end, or that change something."""


def _with_token(handle: Handle) -> Handle:
    async def checked(request: web.Request) -> web.StreamResponse:
        access = request.app[PARTS].access
        if access.by_token(request.headers) is None:
            access.refuse()
        return await handle(request)

    return checked


def _openapi() -> dict[str, Any]:
    from service.http.openapi import document

    return document(ROUTES, handler_classes())


def _asyncapi() -> dict[str, Any]:
    from service.http.openapi import asyncapi_document

    return asyncapi_document(handler_classes())


def make_app(parts: Parts) -> web.Application:
    """The application with every route."""
    app = web.Application(
        middlewares=[problems],
        client_max_size=parts.max_body_bytes,
        handler_args={"auto_decompress": False},  # signatures are over the bytes as sent; see `bodies.unpacked`
    )
    app[PARTS] = parts
    app[incoming.UPLOADS] = incoming.Uploads()
    app[calculator.THREADS] = calculator.threads(parts.calculations)
    app.on_cleanup.append(calculator.end_threads)
    app[docs.DOCUMENTS] = docs.Documents(_openapi, _asyncapi)
    for route in ROUTES:
        handle = _with_token(route.handle) if route.access == "token" else route.handle
        expect = incoming.hold_back if route.holds_back else None
        path = route.path.replace("{key}", "{key:[^/]+}")  # braces too
        app.router.add_route(route.method, path, handle, expect_handler=expect)
        if route.method == "GET" and route.handle not in WITHOUT_HEAD:
            app.router.add_route("HEAD", path, handle)
    return app
