"""The route table as a whole: who is let in, what else than a route is answered, and that the documents tell it all."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import pytest_asyncio
from openapi_spec_validator import validate

from handlers.registry import handler_classes
from service.http.problems import all_codes
from service.http.routes import ROUTES, Route
from service.jobs import Problem, Status
from tests.integration.real_service import SECRETS, TOKEN, Running, running, signed

OPEN = {"/livez", "/readyz", "/openapi.json", "/asyncapi.json", "/docs"}
"""What DESIGN lets everybody read."""
MARK = "zz-mark"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder: Path = tmp_path_factory.mktemp("routes")
    async with running(folder, records_connection="shop") as found:
        yield found


def path_of(route: Route) -> str:
    return re.sub(r"\{\w+\}", "check" if route.path.startswith("/hooks") else MARK, route.path)


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


@pytest.mark.parametrize("route", ROUTES, ids=named)
async def test_only_open_routes_answer_a_stranger(service: Running, route: Route) -> None:
    answer = await service.ask(route.method, path_of(route), token=None)
    if route.path in OPEN:
        assert answer.status == 200
        return
    assert (answer.status, answer.code) == (401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for wrong in ({"Authorization": "Bearer wrong"}, {"X-API-Key": "wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = await service.ask(route.method, path_of(route), token=None, headers=wrong)
        assert (answer.status, answer.code) == (401, "invalid_token")


@pytest.mark.parametrize("route", [route for route in ROUTES if route.access == "token"], ids=named)
async def test_a_signature_opens_no_other_door(service: Running, route: Route) -> None:
    answer = await service.ask(route.method, path_of(route), token=None, headers=signed(b""))
    assert answer.status == 401


@pytest.mark.parametrize("route", ROUTES, ids=named)
async def test_the_token_opens_every_route_by_either_header(service: Running, route: Route) -> None:
    for shown in ({"Authorization": f"bearer {TOKEN}"}, {"X-API-Key": TOKEN}):
        answer = await service.ask(route.method, path_of(route), token=None, headers=shown)
        assert answer.status not in {401, 403, 405, 500}, answer.body


@pytest.mark.parametrize("route", [route for route in ROUTES if "{" in route.path], ids=named)
@pytest.mark.parametrize(
    "name",
    [
        "..%2F..%2Fetc%2Fpasswd",
        "%2e%2e",
        "..",
        "%00",
        "a%0d%0aSet-Cookie:%20x=1",
        "%ff%fe",
        "%ED%A0%80",
        "a%20b%22;%20drop",
        "-Fc",
        "%25",
        "%",
        "%zz",
        "x" * 4000,
        "é",
        "%F0%9F%92%BE",
    ],
)
async def test_any_name_in_a_path_is_a_clean_answer(service: Running, route: Route, name: str) -> None:
    path = re.sub(r"\{\w+\}", name.encode().decode("latin-1") if name != "é" else "%C3%A9", route.path)
    answer = await service.ask(route.method, path, {} if route.method in {"POST", "PUT"} else None)
    assert answer.status in {301, 308, 400, 404, 405, 422}, (answer.status, answer.body)
    assert answer.code is not None and "Set-Cookie" not in answer.headers


async def test_what_is_no_route_is_404_and_another_method_405_with_allow(service: Running) -> None:
    for path in (
        "/",
        "/nothing",
        "/jobs/",
        "//jobs",
        "/jobs/x/",
        "/hooks",
        "/hooks/",
        "/hooks/check/",
        "/JOBS",
        "/docs/",
    ):
        answer = await service.ask("GET", path)
        assert (answer.status, answer.code) == (404, "not_found"), path
    for method, path, allowed in (
        ("PUT", "/jobs", {"GET"}),
        ("GET", "/events", {"POST"}),
        ("GET", "/hooks/check", {"POST"}),
        ("POST", "/subscriptions/x", {"GET", "PUT", "DELETE"}),
        ("DELETE", "/livez", {"GET"}),
        ("TRACE", "/jobs", {"GET"}),
        ("OPTIONS", "/jobs", {"GET"}),
        ("PROPFIND", "/docs", {"GET"}),
    ):
        answer = await service.ask(method, path)
        assert (answer.status, answer.code) == (405, "method_not_allowed"), (method, path)
        assert allowed <= set(answer.headers["Allow"].replace(" ", "").split(","))


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/jobs", "/docs", "/openapi.json", "/metrics", "/backups"])
async def test_head_answers_like_get_without_the_body(service: Running, path: str) -> None:
    got, head = await service.ask("GET", path), await service.ask("HEAD", path)
    assert (head.status, head.body) == (got.status, b"")
    assert head.headers["Content-Type"] == got.headers["Content-Type"]


# ---------------------------------------------------------------- documents


async def test_the_openapi_document_is_valid_and_names_every_route_and_code(service: Running) -> None:
    document = await service.get("/openapi.json")
    validate(document)
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    for route in ROUTES:
        paths = [f"/hooks/{name}" for name in handler_classes()] if route.path.startswith("/hooks") else [route.path]
        for path in paths:
            assert (route.method, path) in told
            security = document["paths"][path][route.method.lower()]["security"]
            assert (security == []) is (route.path in OPEN)
    assert len(told) == len(ROUTES) - 1 + len(handler_classes()), "nothing is told that is not there"
    ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))
    codes = document["components"]["responses"]["Problem"]["description"]
    assert all(code in codes for code in all_codes())


async def test_the_documents_agree_with_what_is_answered(service: Running) -> None:
    schemas = (await service.get("/openapi.json"))["components"]["schemas"]
    acceptance = (await service.hook("check", {"connection": "shop"})).json
    assert set(schemas["Acceptance"]["required"]) == acceptance.keys()
    job = await service.get(f"/jobs/{acceptance['job_id']}")
    assert set(schemas["Job"]["properties"]) == job.keys()
    assert set(schemas["Job"]["required"]) <= job.keys()
    assert set(schemas["Page"]["properties"]) == (await service.get("/jobs")).keys()


async def test_the_asyncapi_document_names_every_event(service: Running) -> None:
    document = await service.get("/asyncapi.json")
    assert document["asyncapi"].startswith("3.")
    names = {name for channel in document["channels"].values() for name in channel["messages"]}
    for operation in handler_classes():
        for stage in ("requested", "started", "completed", "failed", "canceled"):
            assert f"{operation}.{stage}" in names


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag in {"script", "img", "iframe", "link"}:
            self.fetched.append(tag)


async def test_the_page_tells_every_call_operation_and_code_and_fetches_nothing(service: Running) -> None:
    answer = await service.ask("GET", "/docs", token=None)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    text = answer.body.decode()
    page = Page(text)
    assert page.fetched == []
    assert len(page.ids) == len(set(page.ids)), "an id names one place"
    for operation in handler_classes():
        assert f"/hooks/{operation}" in text and operation in page.ids
    for code in all_codes():
        assert code in page.ids, f"a problem's type leads to /docs#{code}"
    for route in ROUTES:
        assert "{operation}" in route.path or html.escape(route.path) in text


# ---------------------------------------------------------------- secrets


async def test_no_answer_holds_a_secret(service: Running) -> None:
    """Every route is asked, some with what is wrong, and a connection whose URL has a password is used."""
    callback = "https://hooks.example.org/resume?signature=tok3n-of-a-callback"
    await service.hook("check", {"connection": "away", "callback_url": callback})
    await service.hook("backup", {"connection": "away", "callback_url": callback, "nonsense": 1})
    put = {"url": "https://who:pass-of-a-subscriber@example.org/in?key=key-of-a-subscriber"}
    await service.ask("PUT", "/subscriptions/ours", put)
    for route in ROUTES:
        for body in (None, {}, b"\xff", {"connection": "away"}):
            await service.ask(route.method, path_of(route), body)
            await service.ask(route.method, path_of(route), body, token="wrong")
    while "callback_url" not in (job := await service.claimed()).data:
        pass  # those of other tests
    await service.service.ledger.finish_job(
        job.job_id, job.fencing_token, Status.FAILED, problem=Problem("tool_failed", "No.")
    )
    for path in ("/deliveries", "/subscriptions", "/subscriptions/ours", "/jobs", "/health"):
        await service.ask("GET", path)
    everything = b"".join(service.bodies)
    secrets = (*SECRETS, "tok3n-of-a-callback", "pass-of-a-subscriber", "key-of-a-subscriber")
    assert [secret for secret in secrets if secret.encode() in everything] == []
    assert b"hooks.example.org/resume" in everything, "the delivery was listed"
