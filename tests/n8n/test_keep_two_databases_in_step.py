"""keep-two-databases-in-step: what differs is carried to the copy, exactly, and never an emptiness."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.acceptance.service_process import TOKEN
from tests.conftest import FreshDatabase
from tests.n8n.conftest import MakePair
from tests.n8n.gate import Asked, gate
from tests.n8n.pair import Pair, sqlite_shop
from tests.n8n.process import Execution

NAME = "keep-two-databases-in-step"
BIG = 2**53 + 1
"""An integer that JSON numbers in a browser cannot hold."""


REFUSED_SOME = {"type": "records.completed", "data": {"job_id": "J1", "rejected": [{"position": 0, "reason": "No."}]}}
"""What an engine answers that writes each record by itself."""


@pytest.fixture
def pair(make_pair: MakePair, tmp_path: Path, fresh_database: FreshDatabase, postgres15_url: str) -> Pair:
    """`customers` and `courses` on SQLite are the source; the connection `copy` is PostgreSQL."""
    urls = {"shop": sqlite_shop(tmp_path), "copy": fresh_database(postgres15_url)}
    pair = make_pair(urls, FLEXDB_RECORDS_CONNECTION="shop")
    write(pair, "customers", *(customer(number) for number in range(1, 11)))
    write(pair, "courses", course(1), course(2, price="0.10"), course(BIG, description="Ünïcode ✓"))
    return pair


def customer(number: int, **fields: Any) -> dict[str, Any]:
    plain = {"customer_id": f"C{number}", "first_name": "Ada", "last_name": "Raman", "email": f"c{number}@example.com"}
    return plain | {"account_balance": "1234.50", "created_at": "2020-01-02T03:04:05.678901Z"} | fields


def course(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": number, "title": f"Course {number}", "price": "99.00"} | fields


def write(pair: Pair, collection: str, *records: Mapping[str, Any]) -> None:
    pair.flexdb.complete("records", {"collection": collection, "records": list(records)})


def remove(pair: Pair, collection: str, *keys: Any) -> None:
    pair.flexdb.complete("records", {"collection": collection, "action": "delete", "records": list(keys)})


def everything(pair: Pair, collection: str) -> bytes:
    """All records as FlexDB writes them, to the last zero."""
    answer = pair.flexdb.request("GET", f"/api/{collection}?format=ndjson")
    assert answer.status == 200, answer.body
    return b"\n".join(sorted(answer.body.splitlines()))


def assert_in_step(pair: Pair) -> None:
    for name in ("customers", "courses"):
        found = everything(pair, name)
        assert found, "an empty source proves nothing"
        assert everything(pair, f"{name}_copy") == found


def carried(pair: Pair, **settings: Any) -> Execution:
    """Run it to its end and expect that it went well."""
    done = pair.run(pair.load(NAME, settings))
    assert done.status == "success", done.error
    return done


def failed(pair: Pair, settings: Mapping[str, Any] | None = None) -> Execution:
    done = pair.run(pair.load(NAME, settings))
    assert done.status == "error"
    return done


# ---------------------------------------------------------------- it goes well


def test_copies_that_are_not_there_are_made_on_the_other_connection_and_filled(pair: Pair) -> None:
    done = carried(pair)
    assert done.times("Declare the copy") == 2
    assert "In step again" in done.nodes
    assert pair.flexdb.get("/collections/customers_copy")["connection"] == "copy"
    assert pair.flexdb.get("/collections/courses_copy")["generated"] is True
    assert_in_step(pair)
    (told,) = pair.told()
    assert "✓ customers: 10 added, 0 changed, 0 deleted; customers_copy has all 10 records" in told
    assert "✓ courses: 3 added, 0 changed, 0 deleted; courses_copy has all 3 records" in told


def test_numbers_and_times_arrive_as_they_were(pair: Pair) -> None:
    write(pair, "customers", customer(11, account_balance="-9999999999999.99", phone=None))
    carried(pair)
    assert b'"account_balance":1234.50,' in everything(pair, "customers_copy")
    assert b'"account_balance":-9999999999999.99,' in everything(pair, "customers_copy")
    assert f'"id":"{BIG}"'.encode() in everything(pair, "courses_copy")
    assert b'"price":0.10,' in everything(pair, "courses_copy")
    assert b'"created_at":"2020-01-02T03:04:05.678901Z"' in everything(pair, "customers_copy")
    assert_in_step(pair)  # the courses' created_at was made by the source, and carried


def test_a_second_run_has_nothing_to_do_and_is_quiet(pair: Pair) -> None:
    carried(pair)
    jobs = len(pair.flexdb.get("/jobs?operation=records&limit=500")["data"])
    again = carried(pair)
    assert "In step already" in again.nodes
    assert "Declare the copy" not in again.nodes
    assert len(pair.told()) == 1
    assert len(pair.flexdb.get("/jobs?operation=records&limit=500")["data"]) == jobs


def test_what_is_new_changed_and_gone_is_carried_and_nothing_else(pair: Pair) -> None:
    carried(pair)
    write(pair, "customers", customer(11), customer(12), customer(3, account_balance="1234.51"))
    remove(pair, "customers", "C7")
    remove(pair, "courses", BIG)
    done = carried(pair)
    assert_in_step(pair)
    told = pair.told()[1]
    assert "✓ customers: 2 added, 1 changed, 1 deleted; customers_copy has all 11 records" in told
    assert "✓ courses: 0 added, 0 changed, 1 deleted; courses_copy has all 2 records" in told
    steps = done.output("Split out the steps")
    assert [(step["copy"], step["action"], len(step.get("records", []))) for step in steps] == [
        ("customers_copy", "upsert", 3),
        ("customers_copy", "delete", 1),
        ("customers_copy", "count", 0),
        ("courses_copy", "delete", 1),
        ("courses_copy", "count", 0),
    ]


def test_what_was_changed_in_the_copy_alone_is_put_right(pair: Pair) -> None:
    carried(pair)
    write(pair, "customers_copy", customer(5, first_name="Eve"))
    remove(pair, "customers_copy", "C6")
    carried(pair)
    assert_in_step(pair)
    assert "✓ customers: 1 added, 1 changed, 0 deleted" in pair.told()[1]


def test_many_records_go_page_by_page_and_in_batches_with_a_key_each(pair: Pair) -> None:
    write(pair, "customers", *(customer(number) for number in range(11, 912)))
    with gate(pair.flexdb.port) as door:
        done = carried(pair, flexdbUrl=door.url, batchRecords=5000)
        assert len(door.of("GET", "/api/customers?")) == 2
        assert len(door.of("GET", "/api/customers_copy?")) == 2, "read once while it is empty, then counted"
        writes = door.of("POST", "/hooks/records")
    assert [len(asked.json["records"]) for asked in writes] == [911, 3]
    assert [len(page["data"]) for page in done.output("Read the source", run=0)] == [500, 411]
    done = carried(pair)
    assert "In step already" in done.nodes
    assert done.times("Read the copy") == 2
    remove(pair, "customers_copy", *(f"C{number}" for number in range(1, 602)))
    with gate(pair.flexdb.port) as door:
        carried(pair, flexdbUrl=door.url, batchRecords=250)
        writes = door.of("POST", "/hooks/records")
    assert [len(asked.json["records"]) for asked in writes] == [250, 250, 101]
    assert len({asked.headers["idempotency-key"] for asked in writes}) == 3
    assert_in_step(pair)


def test_a_change_in_the_middle_of_a_run_is_carried_by_the_next(pair: Pair) -> None:
    carried(pair)
    write(pair, "customers", customer(1, first_name="Grace"))
    changed = threading.Event()

    def change(asked: Asked) -> None:
        """After the source was read, before the copy is written."""
        if asked.is_for("POST", "/hooks/records") and not changed.is_set():
            changed.set()
            write(pair, "customers", customer(1, first_name="Hedy"), customer(20))
            remove(pair, "customers", "C2")

    with gate(pair.flexdb.port, change) as door:
        carried(pair, flexdbUrl=door.url)
    assert changed.is_set()
    assert pair.flexdb.get("/api/customers_copy/C1")["first_name"] == "Grace"
    assert pair.flexdb.get("/api/customers_copy")["total"] == 10
    carried(pair)
    assert pair.flexdb.get("/api/customers_copy/C1")["first_name"] == "Hedy"
    assert_in_step(pair)


def test_a_field_that_the_source_got_is_given_to_the_copy(pair: Pair) -> None:
    carried(pair)
    found = pair.flexdb.get("/collections/courses")
    found["schema"]["properties"]["room"] = {"type": ["string", "null"]}
    wanted = {field: found[field] for field in ("connection", "key", "generated", "schema")}
    assert pair.flexdb.request("PUT", "/collections/courses", wanted).status == 201
    write(pair, "courses", course(1, room="B12"))
    done = carried(pair)
    assert done.times("Declare the copy") == 1
    assert pair.flexdb.get("/api/courses_copy/1")["room"] == "B12"
    assert_in_step(pair)


def test_an_answer_that_is_lost_writes_nothing_twice(pair: Pair) -> None:
    lost = threading.Event()

    def lose(asked: Asked) -> tuple[int, Any] | None:
        if not asked.is_for("POST", "/hooks/records") or lost.is_set():
            return None
        lost.set()
        pair.flexdb.request(asked.method, asked.path, asked.body, asked.headers)
        return 504, {"detail": "The answer was lost."}

    with gate(pair.flexdb.port, lose) as door:
        carried(pair, flexdbUrl=door.url)
        writes = door.of("POST", "/hooks/records")
    assert len(writes) == 3
    assert len({asked.headers["idempotency-key"] for asked in writes}) == 2
    copies = [job for job in pair.flexdb.get("/jobs?operation=records")["data"] if job["connection"] == "copy"]
    assert len(copies) == 2
    assert_in_step(pair)


def test_for_more_records_flexdb_reads_itself_by_a_feed_and_finds_the_same(pair: Pair) -> None:
    write(pair, "customers", *(customer(number) for number in range(11, 1211)))
    carried(pair, collections="courses, customers")
    remove(pair, "customers_copy", *(f"C{number}" for number in range(1, 1000)))
    feed = {"url": f"{pair.flexdb_url}/api/customers", "headers": {"X-API-Key": TOKEN}}
    pair.flexdb.settings |= {"FLEXDB_FEEDS__STEP": json.dumps(feed), "FLEXDB_OUTGOING_ALLOW": "127.0.0.1"}
    pair.flexdb.stop()
    pair.flexdb.restart()
    done = pair.run(pair.load("scheduled-ingest", {"collection": "customers_copy", "source": "step"}))
    assert done.status == "success", done.error
    pair.told_of("Ingest into customers_copy", "999 inserted, 0 updated, 211 unchanged, 0 rejected")
    assert_in_step(pair)


# ---------------------------------------------------------------- the guard


def test_an_empty_source_never_empties_the_copy(pair: Pair) -> None:
    carried(pair)
    remove(pair, "courses", 1, 2, BIG)
    write(pair, "customers", customer(11))
    done = failed(pair, {"mostDeletions": "100%"})
    assert "Held back" in done.nodes
    told = pair.told_of("✗ courses: 3 of 3 records of courses_copy would be deleted", "the source is empty")
    assert "✓ customers: 1 added" in told, "the others are carried all the same"
    assert pair.flexdb.get("/api/courses_copy")["total"] == 3
    assert everything(pair, "customers_copy") == everything(pair, "customers")


@pytest.mark.parametrize(
    ("most", "goes"), [("10%", False), ("1", False), ("nonsense", False), ("20%", True), ("2", True)]
)
def test_no_more_are_deleted_than_is_allowed(pair: Pair, most: str, goes: bool) -> None:
    carried(pair)
    remove(pair, "customers", "C1", "C2")
    write(pair, "customers", customer(3, first_name="Grace"))
    done = pair.run(pair.load(NAME, {"mostDeletions": most}))
    assert (done.status == "success") is goes
    assert pair.flexdb.get("/api/customers_copy")["total"] == (8 if goes else 10)
    assert pair.flexdb.get("/api/customers_copy/C3")["first_name"] == ("Grace" if goes else "Ada")
    assert (
        f"2 of 10 records of customers_copy would be deleted, more than allowed ({most})" in pair.told()[1]
    ) is not goes


# ---------------------------------------------------------------- it goes wrong


def test_a_flexdb_that_is_away_is_told_and_ends_red(pair: Pair) -> None:
    workflow = pair.load(NAME)
    pair.flexdb.kill()
    done = pair.run(workflow)
    assert done.status == "error"
    assert "Stop: FlexDB is away" in done.nodes
    assert "ECONNREFUSED" in pair.told_of("Keep in step: FlexDB could not be asked")


def test_pages_that_lead_nowhere_are_not_taken_for_all_there_is(pair: Pair) -> None:
    write(pair, "customers", *(customer(number) for number in range(1, 502)))

    def without_links(asked: Asked) -> tuple[int, Any] | None:
        return (200, pair.flexdb.get(asked.path)) if asked.is_for("GET", "/api/customers?") else None

    with gate(pair.flexdb.port, without_links) as door:
        done = failed(pair, {"collections": "customers", "flexdbUrl": door.url})
    assert "Held back" in done.nodes
    assert pair.told_of("✗ customers: not all pages came, so nothing was carried")
    assert pair.flexdb.get("/api/customers_copy")["total"] == 0


def test_a_collection_that_is_not_there_is_told_and_the_others_are_carried(pair: Pair) -> None:
    done = failed(pair, {"collections": "nobody, courses"})
    assert "Not possible" in done.nodes
    assert "✓ courses: 3 added" in pair.told_of('✗ nobody: There is no collection named "nobody"')
    assert everything(pair, "courses_copy") == everything(pair, "courses")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"collections": " "}, 'There is no collection named ""'),
        ({"collections": " , "}, 'There is no collection named ""'),
        ({"copySuffix": ""}, "✗ customers: The copy would be the collection itself"),
        ({"copyConnection": "nobody"}, "✗ customers: the collection customers_copy was not declared."),
    ],
)
def test_settings_that_make_no_sense_touch_nothing(pair: Pair, settings: dict[str, str], told: str) -> None:
    failed(pair, settings)
    pair.told_of(told)
    assert {each["name"] for each in pair.flexdb.get("/collections")["data"]} == {"customers", "courses"}
    assert pair.flexdb.get("/api/customers")["total"] == 10


def test_a_copy_on_another_connection_than_told_is_left_alone(pair: Pair) -> None:
    carried(pair)
    remove(pair, "customers", "C1")
    failed(pair, {"copyConnection": "shop"})
    pair.told_of("✗ customers: customers_copy is on the connection copy, not on shop")
    assert pair.flexdb.get("/api/customers_copy")["total"] == 10


def test_a_copy_that_is_the_very_table_of_the_source_is_not_touched(pair: Pair) -> None:
    schema = pair.flexdb.get("/collections/customers")["schema"]
    same = {"connection": "shop", "table": "customers", "key": "customer_id", "schema": schema}
    assert pair.flexdb.request("PUT", "/collections/customers_copy", same).status == 201
    failed(pair, {"collections": "customers", "copyConnection": "shop"})
    pair.told_of("✗ customers: The copy would be the collection itself")


@pytest.mark.parametrize(
    ("method", "path", "status", "answer", "node", "told"),
    [
        ("PUT", "/collections/customers_copy", 503, {"detail": "Out."}, "Not declared", "was not declared. Out."),
        ("GET", "/api/customers?", 503, {"detail": "Out."}, "Not read", "could be read, so nothing was carried. Out."),
        ("GET", "/api/customers_copy?", 503, {"detail": "Out."}, "Not read", "so nothing was carried. Out."),
        ("POST", "/hooks/records", 503, {"detail": "Out."}, "Batch not taken", "was not taken by FlexDB. Out."),
        ("POST", "/hooks/records", 202, {"job_id": "J1"}, "Not written", "not done within two minutes Job J1"),
        (
            "POST",
            "/hooks/records",
            200,
            REFUSED_SOME,
            "Not written",
            "1 of them were not taken, the first because: No.",
        ),
        ("GET", "/api/customers_copy?limit=1", 503, {"detail": "Out."}, "Not counted", "could not be counted. Out."),
        ("GET", "/api/customers_copy?limit=1", 200, {"total": 9}, "Totals differ", "has 9 records, and 10 were to be"),
    ],
)
def test_whatever_goes_wrong_is_told_and_the_others_are_carried(
    pair: Pair, method: str, path: str, status: int, answer: Any, node: str, told: str
) -> None:
    def refuse(asked: Asked) -> tuple[int, Any] | None:
        if not asked.is_for(method, path) or (path.endswith("=1") and asked.path != path):
            return None
        wanted = asked.method != "POST" or asked.json["collection"] == "customers_copy"
        return (status, answer) if wanted else None

    with gate(pair.flexdb.port, refuse) as door:
        done = failed(pair, {"flexdbUrl": door.url})
    assert node in done.nodes
    text = pair.told_of("Not in step:", told)
    assert "✓ customers" not in text
    assert "✓ courses: 3 added" in text
    assert everything(pair, "courses_copy") == everything(pair, "courses")


def test_a_source_that_breaks_off_after_its_first_page_deletes_nothing(pair: Pair) -> None:
    write(pair, "customers", *(customer(number) for number in range(11, 711)))
    carried(pair)
    remove(pair, "customers", "C1")

    def refuse(asked: Asked) -> tuple[int, Any] | None:
        later = asked.is_for("GET", "/api/customers?") and "cursor" in asked.path
        return (503, {"detail": "Out."}) if later else None

    with gate(pair.flexdb.port, refuse) as door:
        done = failed(pair, {"flexdbUrl": door.url, "mostDeletions": "100%"})
    assert "Not read" in done.nodes
    pair.told_of("✗ customers: not all records could be read")
    assert pair.flexdb.get("/api/customers_copy")["total"] == 710


def test_a_batch_that_the_copy_refuses_is_told_with_the_reason(pair: Pair) -> None:
    wanted = {"connection": "copy", "table": "narrow", "key": "customer_id"}
    schema = pair.flexdb.get("/collections/customers")["schema"]
    assert pair.flexdb.request("PUT", "/collections/customers_copy", wanted | {"schema": schema}).status == 201
    pair.flexdb.complete("records", {"collection": "customers_copy", "records": [customer(1)]})
    _take_only_the_first(pair.flexdb.settings["FLEXDB_CONNECTIONS__COPY"])
    done = failed(pair)
    assert "Not written" in done.nodes
    told = pair.told_of("✗ customers_copy, upsert of 9 records: ")
    failures = pair.flexdb.get("/jobs?operation=records&status=failed")["data"]
    assert failures[0]["error"]["message"] in told
    assert failures[0]["job_id"] in told


def _take_only_the_first(url: str) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE narrow ADD CONSTRAINT few CHECK (customer_id = 'C1')")
    connection.close()
