"""Records over HTTP: single ones with their conditions, pages and their links, everything as a file."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import pytest_asyncio

from handlers.collections.ready import READY
from service.http.records import turn_to_export
from service.intake import Refused
from tests.integration.real_service import TOKEN, Running
from tests.integration.records_world import Books, administer, exactly, records_service

pytestmark = pytest.mark.asyncio(loop_scope="module")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory, postgres15_url: str) -> AsyncIterator[Running]:
    folder: Path = tmp_path_factory.mktemp("records")
    async with records_service(folder, postgres15_url, max_body_bytes=100_000) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module", params=["lite", "pg"])
async def books(service: Running, request: pytest.FixtureRequest) -> Books:
    return await Books(service, request.param).declared()


def link(answer: Any, rel: str) -> str | None:
    found = re.search(rf'<([^>]+)>; rel="{rel}"', answer.headers.get("Link", ""))
    return found[1] if found else None


# ---------------------------------------------------------------- single records


async def test_a_record_is_made_read_replaced_changed_and_removed(books: Books) -> None:
    made = await books.ask("POST", body={"isbn": "1", "title": "One", "published": "1999-12-31"})
    assert (made.status, made.headers["Location"]) == (201, books.at("1"))
    whole = {"isbn": "1", "title": "One", "pages": None, "price": None, "weight": None, "published": "1999-12-31"}
    assert made.json == whole | {"extra": None}
    shown = await books.ask("GET", "/1")
    assert (shown.status, shown.body, shown.headers["ETag"]) == (200, made.body, made.headers["ETag"])
    again = await books.ask("POST", body={"isbn": "1", "title": "Other"})
    assert (again.status, again.code) == (409, "record_exists")
    replaced = await books.ask("PUT", "/1", {"title": "Uno", "pages": 3})
    assert (replaced.status, replaced.json["title"], replaced.json["published"]) == (200, "Uno", None)
    assert replaced.headers["ETag"] != made.headers["ETag"]
    patch = {"Content_Type": "application/merge-patch+json"}
    changed = await books.ask("PATCH", "/1", b'{"pages": null, "price": 5}', **patch)
    assert changed.body.startswith(b'{"isbn":"1","title":"Uno","pages":null,"price":5.00,')
    assert (await books.ask("DELETE", "/1")).status == 204
    for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None)):
        gone = await books.ask(method, "/1", body)
        assert (gone.status, gone.code) == (404, "record_not_found")
    put = await books.ask("PUT", "/1", {"title": "Back"})
    assert (put.status, put.headers["Location"]) == (201, books.at("1"))


async def test_numbers_come_back_digit_by_digit(books: Books) -> None:
    body = b'{"isbn": "n", "title": "N", "price": 1234567890123.50, "weight": "12345678901234567890.0123456789"}'
    made = await books.ask("POST", body=body, Content_Type="application/json")
    assert b'"price":1234567890123.50,"weight":"12345678901234567890.0123456789"' in made.body
    sent = exactly(made)
    assert (await books.ask("PUT", "/n", made.body)).headers["ETag"] == made.headers["ETag"]
    assert sent["price"] == Decimal("1234567890123.50")
    number = b'{"title": "N", "weight": 98765432109876543210.0123456789, "pages": 9223372036854775807}'
    put = await books.ask("PUT", "/n", number)
    assert (put.json["weight"], put.json["pages"]) == ("98765432109876543210.0123456789", "9223372036854775807")


async def test_a_key_may_hold_anything(service: Running, books: Books) -> None:
    for key in ["a/b", "{x}", "%", "%2F", "é €", "x\ny", "a+b", "?q=1#f", "..", "' OR 1=1 --", '"', "0", "a/B"]:
        made = await books.ask("POST", body={"isbn": key, "title": "Odd"})
        assert (made.status, made.headers["Location"]) == (201, books.at(key)), key
        shown = await service.ask("GET", made.headers["Location"])
        assert (shown.status, shown.json["isbn"]) == (200, key)
    assert (await books.ask("DELETE", "/a%2fb")).status == 204
    assert (await books.ask("GET", "/a%2FB")).json["isbn"] == "a/B"


async def test_what_can_be_no_key_is_a_record_that_is_not_there(books: Books) -> None:
    assert (await books.ask("GET", "/%00")).code == "record_not_found"
    assert (await books.ask("GET", "/" + "x" * 300)).code == "record_not_found"
    assert (await books.ask("GET", "/%FF")).code == "invalid_request"
    for key in ("%00", "x" * 300, "%ff"):
        refused = await books.ask("PUT", f"/{key}", {"title": "T"})
        assert (refused.status, refused.code) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("body", "status", "pointers"),
    [
        (b'{"isbn": "1", "title": "A", "title": "B"}', 400, []),
        (b'{"isbn": "1", "title": "A", "price": NaN}', 400, []),
        (b"", 400, []),
        (b'{"isbn": "1"}', 422, ["#/title"]),
        (b'{"isbn": 1, "title": null, "author": "me"}', 422, ["#/author", "#/isbn", "#/title"]),
        (b'{"isbn": "1", "title": "A", "published": "0000-01-01", "pages": 1.5}', 422, ["#/pages", "#/published"]),
        (b'{"isbn": "1", "title": "A", "price": 1.234}', 422, ["#/price"]),
        (b'[{"isbn": "1", "title": "A"}]', 422, ["#"]),
        (b'"1"', 422, ["#"]),
    ],
)
async def test_a_body_that_is_no_record_is_refused(
    service: Running, books: Books, body: bytes, status: int, pointers: list[str]
) -> None:
    answer = await service.ask("POST", books.path, body, {"Content-Type": "application/json"})
    assert answer.status == status and answer.code in ("malformed_json", "invalid_request")
    assert sorted(error["pointer"] for error in answer.json.get("errors", [])) == pointers
    assert (await books.page())["total"] == 0


async def test_only_json_is_a_record_and_curls_own_content_type_is_forgiven(books: Books) -> None:
    assert (await books.ask("POST", body=b"isbn=1", Content_Type="text/plain")).code == "unsupported_media_type"
    assert (await books.ask("POST", body=b"isbn=1", **FORM)).code == "unsupported_media_type"
    patch = await books.ask("PATCH", "/1", b"[]", Content_Type="application/json-patch+json")
    assert patch.code == "unsupported_media_type"
    assert (await books.ask("POST", body=b'{"isbn": "1", "title": "A"}', **FORM)).status == 201
    assert (await books.ask("POST", body={"isbn": "2", "title": "A" * 200_000})).code == "too_large"


# ---------------------------------------------------------------- conditions


async def test_a_write_takes_place_only_in_the_state_its_caller_saw(books: Books) -> None:
    await books.put("1")
    first = (await books.ask("GET", "/1")).headers["ETag"]
    second = await books.ask("PUT", "/1", {"title": "New"}, If_Match=first)
    assert second.status == 200
    for method, body in (("PUT", {"title": "Lost"}), ("PATCH", {"title": "Lost"}), ("DELETE", None)):
        stale = await books.ask(method, "/1", body, If_Match=first)
        assert (stale.status, stale.code) == (412, "precondition_failed")
    assert (await books.ask("GET", "/1")).body == second.body
    assert (await books.ask("PUT", "/1", {"title": "Lost"}, If_None_Match="*")).status == 412
    assert (await books.ask("PUT", "/2", {"title": "Made"}, If_None_Match="*")).status == 201
    assert (await books.ask("PUT", "/3", {"title": "Lost"}, If_Match="*")).status == 412
    now = second.headers["ETag"]
    assert (await books.ask("DELETE", "/1", If_Match=f'"other", {now}')).status == 204


async def test_a_reader_who_has_the_record_gets_none(books: Books) -> None:
    await books.put("1")
    etag = (await books.ask("GET", "/1")).headers["ETag"]
    same = await books.ask("GET", "/1", If_None_Match=f"W/{etag}")
    assert (same.status, same.body, same.headers["ETag"]) == (304, b"", etag)
    assert (await books.ask("GET", "/1", If_None_Match='"other"')).status == 200
    assert (await books.ask("GET", "/1", If_Match='"other"')).status == 412
    head = await books.ask("HEAD", "/1")
    assert (head.status, head.body, head.headers["ETag"]) == (200, b"", etag)


async def test_of_many_who_saw_the_same_state_one_writes(books: Books) -> None:
    await books.put("1")
    etag = (await books.ask("GET", "/1")).headers["ETag"]
    writes = (books.ask("PUT", "/1", {"title": f"Writer {number}"}, If_Match=etag) for number in range(12))
    statuses = [answer.status for answer in await asyncio.gather(*writes)]
    assert sorted(statuses) == [200, *[412] * 11]


# ---------------------------------------------------------------- pages


async def test_pages_lead_from_one_to_the_next_through_everything(service: Running, books: Books) -> None:
    keys = [f"{number:02}" for number in range(7)]
    await books.put(*keys)
    first = await books.ask("GET", "?limit=3")
    assert list(first.json) == ["data", "total", "page", "limit"]
    assert (first.json["total"], first.json["page"], first.json["limit"]) == (7, 1, 3)
    assert link(first, "prev") is None
    seen, answer = [record["isbn"] for record in first.json["data"]], first
    while onward := link(answer, "next"):
        answer = await service.ask("GET", onward)
        seen += [record["isbn"] for record in answer.json["data"]]
    assert seen == keys
    assert answer.json["page"] == 3
    back = await service.ask("GET", link(answer, "prev") or "")
    assert [record["isbn"] for record in back.json["data"]] == keys[3:6]
    assert await books.page("?page=9&limit=3") == {"data": [], "total": 7, "page": 9, "limit": 3}
    assert await books.page("?page=1") == await books.page()


async def test_conditions_and_order_say_which_records(books: Books) -> None:
    await books.put("a", pages=10, price=1.5, published="2001-01-01")
    await books.put("b", "c", pages=20)
    await books.put("d", title="Größe & co", pages=5)
    assert await books.keys("?sort=-pages,isbn") == ["b", "c", "a", "d"]
    assert await books.keys("?pages[gte]=10&sort=-isbn") == ["c", "b", "a"]
    assert await books.keys("?pages=20&isbn[ne]=b") == ["c"]
    assert await books.keys("?price=1.50") == ["a"]
    assert await books.keys("?published[null]=true&limit=2") == ["b", "c"]
    assert await books.keys("?title=Gr%C3%B6%C3%9Fe+%26+co") == ["d"]
    assert (await books.page("?pages[lt]=20"))["total"] == 2


@pytest.mark.parametrize(
    ("where", "pointer"),
    [
        ("?limit=0", "#/limit"),
        ("?limit=501", "#/limit"),
        ("?page=0", "#/page"),
        ("?page=x", "#/page"),
        ("?limit=1&limit=2", "#/limit"),
        ("?sort=author", "#/sort"),
        ("?author=me", "#/author"),
        ("?isbn%20OR%201=1", "#/isbn OR 1"),
        ("?pages[like]=1", "#/pages[like]"),
        ("?pages=many", "#/pages"),
        ("?cursor=bm9uZQ", "#/cursor"),
        ("?format=xml", "#/format"),
        ("?format=csv&page=2", "#/page"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(books: Books, where: str, pointer: str) -> None:
    answer = await books.ask("GET", where)
    assert (answer.status, answer.code) == (422, "invalid_request")
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]


# ---------------------------------------------------------------- everything as a file


async def test_everything_that_matches_comes_as_a_file(books: Books) -> None:
    await books.put(*(f"{number:02}" for number in range(60)), price=0.10)
    await books.put("q", title='say "x", and\ny')
    as_csv = await books.ask("GET", "?format=csv")
    assert as_csv.headers["Content-Type"].startswith("text/csv")
    assert as_csv.headers["Content-Disposition"] == f'attachment; filename="{books.name}.csv"'
    rows = list(csv.DictReader(io.StringIO(as_csv.body.decode(), newline="")))
    assert len(rows) == 61 and rows[0]["price"] == "0.10" and rows[-1]["title"] == 'say "x", and\ny'
    lines = (await books.ask("GET", "?price[null]=false&sort=-isbn", Accept="application/x-ndjson")).body.splitlines()
    assert [json.loads(line)["isbn"] for line in lines] == [f"{number:02}" for number in reversed(range(60))]
    parquet = await books.ask("GET", "?format=parquet")
    reading: Any = import_module("pyarrow.parquet")  # it has no types
    table = reading.read_table(io.BytesIO(parquet.body))
    assert table.num_rows == 61 and table.column("price")[0].as_py() == Decimal("0.10")
    head = await books.ask("HEAD", "?format=csv")
    assert (head.status, head.body) == (200, b"") and head.headers["Content-Type"].startswith("text/csv")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/csv", "text/csv"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("text/csv;q=0.5, application/json", "application/json"),
        ("application/json;q=0.1, text/csv", "text/csv"),
        ("application/vnd.apache.parquet;q=0", "application/json"),
        ("text/csv;q=often", "application/json"),
    ],
)
async def test_accept_says_which_form_is_wanted(service: Running, accept: str, kind: str) -> None:
    answer = await service.ask("GET", "/api/customers", headers={"Accept": accept})
    assert answer.headers["Content-Type"].partition(";")[0] == kind


async def test_readers_who_leave_in_the_middle_of_a_file_hold_nothing(service: Running) -> None:
    books = await Books(service, "pg").declared()
    fill = f"INSERT INTO {books.table} (isbn, title) SELECT n::text, repeat('x', 200) FROM generate_series(1, 100000) n"
    administer(service.service.connections.target("pg").url.get_secret_value(), fill)
    head = f"GET {books.path}?format=ndjson HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    for _ in range(6):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(head.encode())
        assert (await reader.readexactly(1000)).startswith(b"HTTP/1.1 200 OK")
        writer.transport.abort()
    whole = await books.ask("GET", "?format=ndjson")
    assert whole.body.count(b"\n") == 100_000


async def test_who_waits_too_long_for_an_export_is_sent_away(service: Running) -> None:
    records = replace(service.service.records.parts(), exports=asyncio.Semaphore(1), export_wait=0.01)
    async with turn_to_export(records):
        with pytest.raises(Refused) as told:
            async with turn_to_export(records):
                pass
    assert (told.value.status, told.value.code, told.value.retry_after) == (503, "target_busy", 1)
    async with turn_to_export(records):  # the first has given back what it had, the second nothing
        assert records.exports.locked()
    assert not records.exports.locked()


# ---------------------------------------------------------------- tables and databases


async def test_reading_makes_no_table_and_a_table_that_went_is_made_again(
    service: Running, postgres15_url: str
) -> None:
    books = await Books(service, "pg").declared()
    await books.put("1")
    connection = psycopg2.connect(service.service.connections.target("pg").url.get_secret_value())
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE {books.table}")
            assert await books.page() == {"data": [], "total": 0, "page": 1, "limit": 50}
            assert (await books.ask("GET", "?format=ndjson")).body == b""
            assert (await books.ask("GET", "/1")).code == "record_not_found"
            cursor.execute("SELECT to_regclass(%s)", (books.table,))
            assert cursor.fetchone() == (None,)
    finally:
        connection.close()
    first = await books.ask("POST", body={"isbn": "2", "title": "Two"})
    assert first.status == 201 or first.code == "collection_mismatch"
    assert (await books.ask("PUT", "/3", {"title": "Three"})).status == 201


async def test_a_database_that_is_away_is_told_before_an_answer_begins(service: Running) -> None:
    document = {**READY["customers"], "connection": "away"}
    await service.service.ledger.put_collection("faraway", document)
    for where in ("", "/1", "?format=csv"):
        answer = await service.ask("GET", f"/api/faraway{where}")
        assert (answer.status, answer.code) == (503, "target_unavailable")
    assert (await service.ask("POST", "/api/faraway", {"customer_id": "1"})).status in (422, 503)
    assert (await service.ask("GET", "/api/nothing")).code == "unknown_collection"


async def test_courses_on_postgresql_from_the_first_to_the_last_call(service: Running) -> None:
    declared = {**READY["courses"], "connection": "pg"}
    assert (await service.ask("PUT", "/collections/courses", declared)).status == 201
    made = await service.ask("POST", "/courses", {"title": "Databases", "price": 199.9, "start_date": "2026-09-01"})
    assert (made.status, made.headers["Location"], made.json["id"]) == (201, "/courses/1", 1)
    assert b'"price":199.90' in made.body
    assert (await service.ask("GET", "/courses/1")).body == (await service.ask("GET", "/api/courses/1")).body
    other = await service.ask("POST", "/api/courses", {"title": "Networks", "credits": 5})
    assert other.headers["Location"] == "/api/courses/2"
    listed = await service.ask("GET", "/courses?sort=-id&limit=1")
    assert (listed.json["total"], listed.json["data"][0]["title"]) == (2, "Networks")
    assert (link(listed, "next") or "").startswith("/courses?")
    replaced = await service.ask("PUT", "/courses/1", {"title": "Databases II"})
    assert (replaced.status, replaced.json["price"]) == (200, None)
    assert replaced.json["created_at"] == made.json["created_at"]
    patched = await service.ask("PATCH", "/courses/1", {"published": True})
    assert (patched.json["title"], patched.json["published"]) == ("Databases II", True)
    assert (await service.ask("DELETE", "/courses/1")).status == 204
    assert (await service.ask("GET", "/courses/1")).code == "record_not_found"
    assert (await service.ask("GET", "/courses/one")).code == "record_not_found"
    assert (await service.ask("DELETE", "/collections/courses")).status == 204
    assert (await service.get("/courses"))["total"] == 0, "the ready one is on the other connection"


async def test_nobody_reads_or_writes_without_a_token(service: Running) -> None:
    for method, path in (
        ("GET", "/api/customers"),
        ("POST", "/courses"),
        ("GET", "/collections"),
        ("POST", "/api/ingest"),
    ):
        assert (await service.ask(method, path, token=None)).status == 401
