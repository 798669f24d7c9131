"""The route table: every call, who may make it, and what it does. The documents are made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from handlers.registry import handler_classes
from service.http import (
    backups,
    dead_letters,
    deliveries,
    docs,
    events,
    health,
    incoming,
    jobs,
    schedules,
    subscriptions,
)
from service.http.keys import PARTS, Parts
from service.http.openapi import asyncapi_document, document
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
DELIVERY_FILTERS = (("job_id", "Those of one job."), ("status", "pending, delivered or abandoned."))
BACKUP_FILTERS = (
    ("connection", "Name of a connection."),
    ("label", "NAME:VALUE; may be given several times."),
    ("min_level", "Verified at least to this level, 0 to 3."),
)
UPLOADED_TO = (("storage", "Name of a configured store; the default one when left out."),)

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
    Route("GET", "/livez", health.livez, "Does the process answer.", "open"),
    Route("GET", "/readyz", health.readyz, "Does it take work.", "open"),
    Route("GET", "/health", health.health, "Can every connection be reached."),
    Route("GET", "/metrics", health.metrics, "Numbers for Prometheus."),
    Route("GET", "/openapi.json", docs.openapi, "This interface as OpenAPI 3.1.", "open"),
    Route("GET", "/asyncapi.json", docs.asyncapi, "The events as AsyncAPI 3.0.", "open"),
    Route("GET", "/docs", docs.page, "This interface as a page to read.", "open"),
)


def _with_token(handle: Handle) -> Handle:
    async def checked(request: web.Request) -> web.StreamResponse:
        access = request.app[PARTS].access
        if access.by_token(request.headers) is None:
            access.refuse()
        return await handle(request)

    return checked


def make_app(parts: Parts) -> web.Application:
    """The application with every route."""
    app = web.Application(
        middlewares=[problems],
        client_max_size=parts.max_body_bytes,
        handler_args={"auto_decompress": False},  # signatures are over the bytes as sent; see `bodies.unpacked`
    )
    app[PARTS] = parts
    app[incoming.UPLOADS] = incoming.Uploads()
    app[docs.OPENAPI] = document(ROUTES, handler_classes())
    app[docs.ASYNCAPI] = asyncapi_document(handler_classes())
    for route in ROUTES:
        handle = _with_token(route.handle) if route.access == "token" else route.handle
        expect = incoming.hold_back if route.holds_back else None
        app.router.add_route(route.method, route.path, handle, expect_handler=expect)
        if route.method == "GET" and route.handle is not jobs.stream_events:
            app.router.add_route("HEAD", route.path, handle)
    return app
