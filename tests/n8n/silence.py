"""Callbacks that never come: FlexDB does what it is asked and calls nobody, or somebody else calls in its place."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.acceptance.service_process import WEBHOOK_SECRET, until
from tests.n8n.gate import Asked, Gate, Intervention, gate
from tests.n8n.pair import Pair

ANOTHER_SECRET = "whsec_c29tZWJvZHkgZWxzZSdzIHNpZ25pbmcga2V5ISE="
SOON = 0.002
"""Hours to wait for a call that will not come, and enough for one that will. Limits below a minute n8n looks for once a
minute."""
NOTICED_SECONDS = 100.0
"""Within so long n8n has noticed that such a limit is over."""


def silent(pair: Pair, operation: str = "", *, looked_at: bool = True) -> Intervention:
    """For a gate: what is asked goes to FlexDB as it came, save that nobody is to be called back.

    That of one `operation`, or all that is asked with a callback. Unless jobs may be `looked_at`, asking for one is
    answered 503.
    """

    def intervene(asked: Asked) -> tuple[int, Any] | None:
        if asked.is_for("GET", "/jobs/") and not looked_at:
            return 503, {"code": "ledger_unavailable"}
        if not asked.is_for("POST", f"/hooks/{operation}") or "callback_url" not in asked.json:
            return None
        data = {name: value for name, value in asked.json.items() if name != "callback_url"}
        headers = {"Idempotency-Key": asked.headers["idempotency-key"]}
        answer = pair.flexdb.request("POST", asked.path, data, headers)
        return answer.status, answer.json

    return intervene


@contextmanager
def callbacks_go_astray(pair: Pair, *, looked_at: bool = True) -> Iterator[str]:
    """The address to give a workflow as `flexdbUrl`, where FlexDB is `silent` about everything."""
    with gate(pair.flexdb.port, silent(pair, looked_at=looked_at)) as door:
        yield door.url


def asked_for(door: Gate, operation: str) -> Asked:
    """The request for an operation, once it came."""
    return until(lambda: door.of("POST", f"/hooks/{operation}"), 60, pause=0.05)[0]


def call_instead(pair: Pair, asked: Asked, job_id: str, *, secret: str = WEBHOOK_SECRET) -> None:
    """Call the workflow that asked, as FlexDB would when the job has succeeded; n8n takes it."""
    operation = asked.path.removeprefix("/hooks/")
    event = {
        "type": f"{operation}.completed",
        "data": {"job_id": job_id, "backup_id": "made-up", "database": "made-up"},
    }
    body = json.dumps(event).encode()
    signature = hmac.digest(secret.encode(), body, hashlib.sha256).hex()
    url = urlsplit(asked.json["callback_url"])
    headers = {"Content-Type": "application/json", "X-FlexDB-Signature": f"sha256={signature}"}
    until(lambda: pair.n8n.request("POST", f"{url.path}?{url.query}", body, headers).status == 200, pause=0.1)
