"""Callbacks that never arrive: FlexDB does what it is asked, and calls somebody else when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.n8n.gate import Asked, gate
from tests.n8n.pair import Pair


@contextmanager
def callbacks_go_astray(pair: Pair, *, looked_at: bool = True) -> Iterator[str]:
    """The address to give a workflow as `flexdbUrl`. Unless jobs may be `looked_at`, asking for one is answered 503."""

    def elsewhere(asked: Asked) -> tuple[int, Any] | None:
        if asked.is_for("GET", "/jobs/") and not looked_at:
            return 503, {"code": "ledger_unavailable"}
        if asked.method != "POST" or "callback_url" not in asked.json:
            return None
        headers = {"Idempotency-Key": asked.headers["idempotency-key"]}
        answer = pair.flexdb.request("POST", asked.path, asked.json | {"callback_url": pair.inbox.url}, headers)
        return answer.status, answer.json

    with gate(pair.flexdb.port, elsewhere) as opened:
        yield opened.url
