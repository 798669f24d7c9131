"""POST /api/ingest: the plain call for records from a source or a file, answered in the words its users know."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from handlers.collections.ready import READY
from service.jobs import Status
from tests.integration.real_service import TOKEN, Answer, Running
from tests.integration.records_world import Books, customer_source, records_service
from tests.spine import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
CSV = {"Content-Type": "text/csv; charset=utf-8"}
LINES = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}
BROKEN = b'[{"isbn": "1", "title": "One"}, {"isbn": '


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def source() -> AsyncIterator[str]:
    async with customer_source() as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory, postgres15_url: str, source: str) -> AsyncIterator[Running]:
    folder: Path = tmp_path_factory.mktemp("ingest")
    feeds = {"customers": source}
    async with records_service(folder, postgres15_url, max_body_bytes=100_000, max_attempts=1, feeds=feeds) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def books(service: Running) -> Books:
    return await Books(service, "pg").declared()


def job_of(answer: Answer) -> str:
    return answer.headers["Location"].removeprefix("/jobs/")


def succeeded(answer: Answer, count: int) -> None:
    assert (answer.status, answer.body) == (200, b'{"status": "success", "records_processed": %d}' % count), answer.body


async def left(service: Running) -> list[str]:
    """Uploaded files that are still there."""
    return [item["path"] for item in (await service.get("/incoming"))["data"]]


async def none_left(service: Running) -> bool:
    return not await left(service)


async def send(books: Books, body: Any, headers: dict[str, str], **more: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return await books.service.ask("POST", f"/api/ingest?collection={books.name}", body, headers | named)


# ---------------------------------------------------------------- from a source


async def test_customers_come_from_a_source_by_one_plain_call(service: Running, source: str) -> None:
    answer = await service.ask("POST", "/api/ingest", {"source": source})
    succeeded(answer, 21)
    job = await service.get(f"/jobs/{job_of(answer)}")
    assert (job["operation"], job["status"], job["result"]["inserted"]) == ("ingest", "succeeded", 21)
    page = await service.get("/api/customers?page=2&limit=10")
    assert (page["total"], page["page"], page["limit"], len(page["data"])) == (21, 2, 10, 10)
    succeeded(await service.ask("POST", "/api/ingest", {"collection": "customers", "source": source}), 21)


async def test_nothing_said_means_the_customers_and_their_own_source(service: Running) -> None:
    for body, headers in ((b"", {}), (b"{}", {}), (b"  {}", JSON)):
        succeeded(await service.ask("POST", "/api/ingest", body, headers), 21)
    unsaid = await service.ask("POST", "/api/ingest", {"collection": "courses"})
    assert (unsaid.status, unsaid.json["errors"][0]["pointer"]) == (422, "#/source")


async def test_a_collection_declared_with_a_source_is_filled_from_it(service: Running, source: str) -> None:
    declared = {**READY["customers"], "connection": "pg", "source": source}
    assert (await service.ask("PUT", "/collections/clients", declared)).status == 201
    succeeded(await service.ask("POST", "/api/ingest", {"collection": "clients"}), 21)


async def test_a_failed_job_is_a_problem_with_its_code(service: Running, source: str) -> None:
    answer = await service.ask("POST", "/api/ingest", {"source": source + "/none"})
    assert (answer.status, answer.code) == (502, "source_failed")
    assert answer.json["job_id"] == job_of(answer)
    assert answer.json["links"]["self"] == answer.headers["Location"]
    down = await service.ask("POST", "/api/ingest", {"source": "http://127.0.0.1:1/", "deadline_seconds": 0.5})
    assert (down.status, down.code) in ((502, "source_unavailable"), (504, "deadline_exceeded"))


async def test_whoever_waits_no_longer_is_answered_like_a_hook(service: Running, source: str) -> None:
    answer = await service.ask("POST", "/api/ingest", {"source": source}, {"Prefer": "wait=0"})
    assert (answer.status, answer.headers["Preference-Applied"]) == (202, "wait=0")
    assert (answer.json["operation"], answer.json["job_id"]) == ("ingest", job_of(answer))
    assert (await service.ended(job_of(answer))).status is Status.SUCCEEDED


async def test_the_same_key_is_the_same_job(service: Running, source: str) -> None:
    key = {"Idempotency-Key": "nightly-1"}
    first = await service.ask("POST", "/api/ingest", {"source": source}, key)
    again = await service.ask("POST", "/api/ingest", {"source": source}, key)
    assert (again.status, again.body, job_of(again)) == (200, first.body, job_of(first))
    other = await service.ask("POST", "/api/ingest", {"source": source, "commit": "run"}, key)
    assert (other.status, other.code) == (409, "id_reused")


# ---------------------------------------------------------------- the body as a file


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (CSV, b"isbn,title,price\r\n1,One,0.10\r\n2,Two,\r\n"),
        (LINES, b'{"isbn": "1", "title": "One", "price": 0.10}\n{"isbn": "2", "title": "Two"}\n'),
        (JSON, b' \n[{"isbn": "1", "title": "One", "price": 0.10}, {"isbn": "2", "title": "Two"}]'),
        (CSV | {"Content-Encoding": "gzip"}, gzip.compress(b"isbn,title,price\n1,One,0.10\n2,Two,\n")),
    ],
    ids=["csv", "ndjson", "json", "csv-gzip"],
)
async def test_a_file_is_taken_in_and_then_removed(books: Books, headers: dict[str, str], body: bytes) -> None:
    succeeded(await send(books, body, headers), 2)
    first, second = (await books.page())["data"]
    assert (first["title"], first["price"], second["price"]) == ("One", Decimal("0.10"), None)
    assert await left(books.service) == []


async def test_a_retry_of_a_failed_job_finds_its_file_and_then_removes_it(books: Books) -> None:
    failed = await send(books, b"isbn,title\n1,One\n,None\n", CSV | {"Prefer": "wait=0"})
    assert (await books.service.ended(job_of(failed))).status is Status.SUCCEEDED  # rejects are no failure
    assert await left(books.service) == []
    failed = await send(books, BROKEN, JSON)
    (name,) = await left(books.service)
    better = await books.service.ask("PUT", f"/incoming/{name}?replace=true", b'[{"isbn": "1", "title": "One"}]')
    assert better.status == 200
    retried = await books.service.ask("POST", f"/jobs/{job_of(failed)}/retry")
    assert (await books.service.ended(retried.json["job_id"])).status is Status.SUCCEEDED
    assert await left(books.service) == []


async def test_a_file_that_somebody_uploaded_stays(books: Books) -> None:
    assert (await books.service.ask("PUT", "/incoming/ingest-mine.csv", b"isbn,title\n1,One\n")).status == 201
    data = {"collection": books.name, "source": {"upload": "ingest-mine.csv"}}
    succeeded(await books.service.ask("POST", "/api/ingest", data), 1)
    assert await left(books.service) == ["ingest-mine.csv"]
    assert (await books.service.ask("DELETE", "/incoming/ingest-mine.csv")).status == 204


async def test_a_file_larger_than_any_body_is_streamed(books: Books) -> None:
    lines = b"".join(b'{"isbn": "%07d", "title": "%s"}\n' % (number, b"x" * 190) for number in range(1500))
    assert len(lines) > 2 * 100_000
    succeeded(await send(books, lines, LINES), 1500)
    array = b"[" + lines.replace(b"\n", b",")[:-1] + b"]"
    succeeded(await send(books, array, JSON), 1500)
    assert (await books.page())["total"] == 1500


async def test_the_file_of_a_failed_job_is_kept_for_another_try(books: Books) -> None:
    answer = await send(books, BROKEN, JSON)
    assert (answer.status, answer.code) == (422, "source_failed")
    kept = await left(books.service)
    assert len(kept) == 1 and kept[0].startswith("_ingest-")
    assert (await books.service.ask("DELETE", f"/incoming/{kept[0]}")).status == 204


async def test_the_same_file_under_the_same_key_is_the_same_job(books: Books) -> None:
    body = b"isbn,title\n1,One\n"
    first = await send(books, body, CSV, Idempotency_Key="file-1")
    again = await send(books, body, CSV, Idempotency_Key="file-1")
    succeeded(again, 1)
    assert job_of(again) == job_of(first)
    assert await left(books.service) == []


async def test_another_file_under_a_key_whose_file_is_still_there_is_refused(books: Books) -> None:
    bad = await send(books, BROKEN, JSON, Idempotency_Key="file-2")
    assert (bad.status, bad.code) == (422, "source_failed")
    other = await send(books, b'[{"isbn": "1", "title": "One"}]', JSON, Idempotency_Key="file-2")
    assert (other.status, other.code) == (409, "id_reused")
    elsewhere = await books.service.ask(
        "POST", "/api/ingest?collection=customers", BROKEN, JSON | {"Idempotency-Key": "file-2"}
    )
    assert elsewhere.code == "id_reused"
    assert len(await left(books.service)) == 1, "that of the first request stays, for its job to be retried"
    same = await send(books, BROKEN, JSON, Idempotency_Key="file-2")
    assert (same.status, job_of(same)) == (bad.status, job_of(bad))
    for name in await left(books.service):
        await books.service.ask("DELETE", f"/incoming/{name}")


async def test_a_body_that_breaks_off_leaves_nothing(books: Books) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", books.service.port)
    head = f"POST /api/ingest?collection={books.name} HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"
    writer.write(f"{head}Authorization: Bearer {TOKEN}\r\nContent-Length: 100000\r\n\r\nisbn,".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    succeeded(await send(books, b"isbn,title\n1,One\n", CSV), 1)
    await until(lambda: none_left(books.service))


@pytest.mark.parametrize(
    ("query", "body", "headers", "status", "code"),
    [
        ("?collection=nothing", b"a,b\n", CSV, 404, "unknown_collection"),
        ("?collection=nothing", b"[]", JSON, 404, "unknown_collection"),
        ("", b'{"collection": "nothing"}', JSON, 404, "unknown_collection"),
        ("", b'{"collection": 1, "source": "http://127.0.0.1:1/"}', JSON, 422, "invalid_request"),
        ("", b'{"source": "http://10.0.0.1/"}', JSON, 422, "invalid_request"),
        ("", b'{"sauce": "x"}', JSON, 422, "invalid_request"),
        ("?colection=x", b"{}", JSON, 422, "invalid_request"),
        ("", b'"text"', JSON, 422, "invalid_request"),
        ("", b"{", JSON, 400, "malformed_json"),
        ("", b"<xml/>", {"Content-Type": "application/xml"}, 415, "unsupported_media_type"),
        ("", b"a,b\n", CSV | {"Content-Encoding": "br"}, 415, "unsupported_media_type"),
        ("", json.dumps({"x": "y" * 200_000}).encode(), JSON, 413, "too_large"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    service: Running, query: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await service.ask("POST", f"/api/ingest{query}", body, headers)
    assert (answer.status, answer.code) == (status, code), answer.body
    assert await left(service) == []
