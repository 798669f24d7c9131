"""Deliveries by HTTP: what was sent where, every attempt at it, and sending it again."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from yarl import URL

from service.http.keys import PARTS
from service.http.paging import page_response, refuse_unknown, wished_limit
from service.http.query import flag
from service.intake import Refused
from service.jobs import iso
from service.ledger.records import Delivery, DeliveryStatus


def shown_url(url: str) -> str:
    """Scheme, host and path: the query of a callback is a token, and user information is too.

    What is no URL is the name of an exchange or a queue, and shown as it is.
    """
    parsed = URL(url, encoded=True)
    if parsed.raw_host is None:
        return url
    port = f":{parsed.explicit_port}" if parsed.explicit_port is not None else ""
    host = f"[{parsed.raw_host}]" if parsed.raw_host and ":" in parsed.raw_host else parsed.raw_host
    return f"{parsed.scheme}://{host}{port}{parsed.raw_path}"


def shown(delivery: Delivery) -> dict[str, Any]:
    return {
        "delivery_id": delivery.delivery_id,
        "job_id": delivery.job_id,
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "kind": delivery.kind,
        "destination": delivery.destination,
        "url": shown_url(delivery.url),
        "status": delivery.status.value,
        "attempts": delivery.attempts,
        "created_at": iso(delivery.created_at),
        "due_at": iso(delivery.due_at) if delivery.status is DeliveryStatus.PENDING else None,
        "delivered_at": iso(delivery.delivered_at),
        "last_error": delivery.last_error,
        "log": [
            {
                "number": attempt.number,
                "at": iso(attempt.at),
                "http_status": attempt.http_status,
                "error": attempt.error,
                "milliseconds": round(attempt.milliseconds, 1),
            }
            for attempt in delivery.log
        ],
        "links": {
            "job": f"/jobs/{delivery.job_id}",
            "redeliver": f"/deliveries/{delivery.delivery_id}/redeliver",
        },
    }


async def list_deliveries(request: web.Request) -> web.Response:
    """GET /deliveries: newest first, filtered by job_id, status and started."""
    query, status = request.query, request.query.get("status")
    refuse_unknown("status", status, DeliveryStatus)
    page = await request.app[PARTS].ledger.deliveries(
        job_id=query.get("job_id"),
        status=status,
        started="started" not in query or flag(request, "started"),
        cursor=query.get("cursor") or None,
        limit=wished_limit(query),
    )
    return page_response(request, page, shown)


async def redeliver(request: web.Request) -> web.Response:
    """POST /deliveries/{id}/redeliver: the same bytes under the same id, now."""
    delivery = await request.app[PARTS].ledger.redeliver(request.match_info["id"])
    if delivery is None:
        raise Refused(404, "delivery_not_found", "There is no such delivery; GET /deliveries lists them.")
    return web.json_response(shown(delivery), status=202)
