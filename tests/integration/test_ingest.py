"""Ingest against a source that pages in many ways and lies, repeats, breaks off and moves."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from engines.errors import FlexError, SourceFailed, SourceUnavailable, Stopped, TooManyRejected
from engines.run import StopReason, StopToken
from handlers.incoming import incoming_key
from handlers.ingest import IngestHandler
from handlers.supplies import Feed
from service.fetching import HttpFetcher
from service.fetching.pacing import Backoff
from service.outgoing import OutgoingPolicy
from service.tables import OpenTables
from tests.conftest import FreshDatabase
from tests.integration.faulty_source import FaultySource, Query, faulty_source, paged
from tests.integration.ingest_world import IngestWorld, thing, things


@pytest.fixture(scope="module")
def running() -> Iterator[FaultySource]:
    with faulty_source() as source:
        yield source


@pytest.fixture
def source(running: FaultySource) -> FaultySource:
    running.behaviours.clear()
    running.asked.clear()
    running.headers.clear()
    return running


@pytest.fixture
def world(source: FaultySource, tmp_path: Path) -> IngestWorld:
    policy = OutgoingPolicy.of(["127.0.0.1", "::1"])
    return IngestWorld(tmp_path, HttpFetcher(source.loop, policy, Backoff(0.001, 0.01)))


# ---------------------------------------------------------------- paginators found by themselves


def by_offset(query: Query) -> Any:
    rows, offset = things(1000), int(query.get("offset", "0"))
    return {"items": rows[offset : offset + 100], "offset": offset, "limit": 100, "total": 1000}


def by_cursor(query: Query) -> Any:
    at = int(query.get("cursor", "0"))
    return {"results": things(100, at + 1), "next_cursor": str(at + 100) if at < 900 else None}


def by_token(query: Query) -> Any:
    at = int(query.get("pageToken", "0"))
    return {"items": things(100, at + 1)} | ({"nextPageToken": str(at + 100)} if at < 900 else {})


def by_next_link(query: Query) -> Any:
    page = int(query.get("page", "1"))
    following = f"?page={page + 1}" if page < 10 else None
    return {"count": 1000, "next": following, "previous": None, "results": things(100, page * 100 - 99)}


def by_hal(query: Query) -> Any:
    page = int(query.get("page", "1"))
    links = {"self": {"href": "/rows"}} | ({"next": {"href": f"/rows?page={page + 1}"}} if page < 10 else {})
    return {"_links": links, "_embedded": {"things": things(100, page * 100 - 99)}}


def by_header(query: Query) -> Any:
    page = int(query.get("page", "1"))
    link = f'</rows?page={page + 1}>; rel="next", </rows?page=10>; rel=last' if page < 10 else ""
    return web.json_response(things(100, page * 100 - 99), headers={"Link": link} if link else {})


def by_pages(query: Query) -> Any:
    page = int(query.get("page", "0"))
    return {"content": things(100, page * 100 + 1), "totalPages": 10, "number": page, "last": page == 9}


def by_more(query: Query) -> Any:
    page = int(query.get("page", "1"))
    return {"data": things(100, page * 100 - 99), "meta": {"page": page, "has_more": page < 10}}


def by_number(query: Query) -> Any:
    page = int(query.get("page", "1"))
    return {"data": things(100, page * 100 - 99), "pagination": {"next_page": page + 1 if page < 10 else None}}


@pytest.mark.parametrize(
    "behaviour",
    [
        paged(things(1000)),
        paged(things(1000), clamps=True),
        by_offset,
        by_cursor,
        by_token,
        by_next_link,
        by_hal,
        by_header,
        by_pages,
        by_more,
        by_number,
    ],
)
def test_a_source_is_read_to_its_end_whatever_way_it_pages(
    world: IngestWorld, source: FaultySource, behaviour: Any
) -> None:
    result = world.ingest(source.serves(behaviour))
    assert (result.records_processed, result.inserted, result.pages, result.duplicates) == (1000, 1000, 10, 0)
    assert len(world.things.rows) == 1000
    assert result.gap in (0, None)
    assert len(source.asked) in (10, 11), source.asked


def test_an_array_without_a_word_of_pages_is_one_page(world: IngestWorld, source: FaultySource) -> None:
    assert world.ingest(source.serves(lambda query: things(21))).records_processed == 21
    assert len(source.asked) == 1


@pytest.mark.parametrize(
    ("paginator", "query"),
    [
        ({"style": "page", "page_parameter": "p", "first_page": 0}, "p=0"),
        ({"style": "offset", "offset_parameter": "skip"}, None),
        ({"style": "page", "page_parameter": "p", "first_page": 0, "size": 50, "size_parameter": "n"}, "n=50&p=0"),
    ],
)
def test_a_named_paginator_needs_no_word_from_the_source(
    world: IngestWorld, source: FaultySource, paginator: Any, query: str | None
) -> None:
    def behaviour(asked: Query) -> Any:
        size = int(asked.get("n", "100"))
        first = int(asked["p"]) * size if "p" in asked else int(asked.get("skip", "0"))
        return things(450)[first : first + size]

    assert world.ingest({"url": source.serves(behaviour), "paginator": paginator}).records_processed == 450
    assert query is None or source.asked[0] == f"/rows?{query}"


@pytest.mark.parametrize("told", [{"total": 1000}, {"has_more": True}, {"last": False}])
def test_more_records_without_a_way_to_them_is_a_failure_and_not_the_first_page(
    world: IngestWorld, source: FaultySource, told: Any
) -> None:
    with pytest.raises(SourceFailed) as caught:
        world.ingest(source.serves(lambda query: {"data": things(100), **told}))
    assert "source.paginator" in caught.value.hint
    assert not world.things.rows


@pytest.mark.parametrize("style", ["next", "link"])
def test_a_named_paginator_that_leads_nowhere_is_a_failure(
    world: IngestWorld, source: FaultySource, style: str
) -> None:
    with pytest.raises(SourceFailed) as caught:
        world.ingest({"url": source.serves(paged(things(1000))), "paginator": style})
    assert "no link" in caught.value.message
    assert world.ingest({"url": source.serves(paged(things(10))), "paginator": style}).records_processed == 10


def test_a_total_in_a_header_counts_too(world: IngestWorld, source: FaultySource) -> None:
    with pytest.raises(SourceFailed):
        world.ingest(source.serves(lambda query: web.json_response(things(10), headers={"X-Total-Count": "95"})))


def test_as_many_records_as_were_asked_for_are_told_as_perhaps_not_all(
    world: IngestWorld, source: FaultySource
) -> None:
    url = source.serves(lambda query: things(10))
    assert world.ingest(f"{url}?limit=10").notes
    assert not world.ingest(f"{url}?limit=20").notes


def test_a_server_that_gives_smaller_pages_than_asked_for_is_read_to_its_end(
    world: IngestWorld, source: FaultySource
) -> None:
    url = source.serves(paged(things(450), size=100))
    result = world.ingest({"url": url, "paginator": {"style": "page", "size": 500}})
    assert (result.records_processed, result.pages) == (450, 5)


# ---------------------------------------------------------------- sources that go astray


def test_a_source_that_always_answers_its_first_page_is_a_failure(world: IngestWorld, source: FaultySource) -> None:
    with pytest.raises(SourceFailed) as caught:
        world.ingest(source.serves(lambda query: {"data": things(100), "total": 1000, "page": 1, "limit": 100}))
    assert "page 2" in caught.value.message


def test_cursors_that_go_in_a_circle_are_a_failure(world: IngestWorld, source: FaultySource) -> None:
    def behaviour(query: Query) -> Any:
        at = query.get("cursor", "a")
        return {"data": things(10, 1 if at == "a" else 11), "next_cursor": "b" if at == "a" else "a"}

    with pytest.raises(SourceFailed):
        world.ingest(source.serves(behaviour))
    assert len(source.asked) <= 4


def test_cursors_that_go_in_a_circle_are_seen_though_the_records_are_new(
    world: IngestWorld, source: FaultySource
) -> None:
    def behaviour(query: Query) -> Any:
        new = things(10, 10 * len(source.asked))
        return {"data": new, "next_cursor": "a" if query.get("cursor") == "b" else "b"}

    with pytest.raises(SourceFailed) as caught:
        world.ingest(source.serves(behaviour))
    assert "circle" in caught.value.hint


@pytest.mark.parametrize("status", [400, 404])
def test_a_failure_behind_the_last_page_is_the_end(world: IngestWorld, source: FaultySource, status: int) -> None:
    good = paged(things(1000))

    def behaviour(query: Query) -> Any:
        return web.Response(status=status) if query.get("page") == "11" else good(query)

    assert world.ingest(source.serves(behaviour)).records_processed == 1000


def test_without_a_total_a_page_that_is_not_found_is_the_end(world: IngestWorld, source: FaultySource) -> None:
    def behaviour(query: Query) -> Any:
        page = int(query.get("page", "1"))
        return things(100, page * 100 - 99) if page < 4 else web.Response(status=404)

    assert world.ingest({"url": source.serves(behaviour), "paginator": "page"}).records_processed == 300


def test_a_source_without_end_is_cut_off(world: IngestWorld, source: FaultySource) -> None:
    def behaviour(query: Query) -> Any:
        at = int(query.get("cursor", "0"))
        return {"data": things(2, at * 2), "next_cursor": str(at + 1)}

    with pytest.raises(SourceFailed) as caught:
        world.ingest({"url": source.serves(behaviour), "paginator": {"max_pages": 20}})
    assert "max_pages" in caught.value.hint
    assert len(source.asked) == 20


def test_a_named_page_paginator_ends_where_the_server_repeats_its_last_page(
    world: IngestWorld, source: FaultySource
) -> None:
    def behaviour(query: Query) -> Any:
        page = min(int(query.get("page", "1")), 5)
        return things(100, page * 100 - 99)

    result = world.ingest({"url": source.serves(behaviour), "paginator": "page"})
    assert result.records_processed == 500
    assert any("page 6" in note for note in result.notes)


def test_a_total_that_is_too_small_loses_nothing(world: IngestWorld, source: FaultySource) -> None:
    result = world.ingest(source.serves(paged(things(1000), total=300)))
    assert (result.records_processed, result.total, result.gap) == (1000, 300, -700)


def test_a_total_that_is_too_large_is_told_as_a_gap(world: IngestWorld, source: FaultySource) -> None:
    result = world.ingest(source.serves(paged(things(950), total=1200)))
    assert (result.records_processed, result.gap) == (950, 250)


def test_an_error_with_an_empty_array_in_the_middle_is_no_end(world: IngestWorld, source: FaultySource) -> None:
    good = paged(things(1000))

    def behaviour(query: Query) -> Any:
        return {"data": [], "error": "try later"} if query.get("page") == "3" else good(query)

    with pytest.raises(SourceFailed) as caught:
        world.ingest(source.serves(behaviour))
    assert "speaks of an error" in caught.value.message


@pytest.mark.parametrize("told", [{"total_pages": 5}, {"total": 50, "limit": 10}])
def test_a_page_without_records_in_the_middle_is_no_end(world: IngestWorld, source: FaultySource, told: Any) -> None:
    """Sources that leave out what the caller may not see do so page by page."""

    def behaviour(query: Query) -> Any:
        page = int(query.get("page", "1"))
        rows = things(10, page * 10 - 9) if page <= 5 and page not in (2, 3) else []
        return {"data": rows, "page": page} | told

    assert world.ingest(source.serves(behaviour)).records_processed == 30
    assert len(source.asked) <= 6


def test_pages_said_to_be_empty_without_end_are_cut_off(world: IngestWorld, source: FaultySource) -> None:
    assert world.ingest(source.serves(paged(things(950), total=10**9))).records_processed == 950
    assert len(source.asked) < 300


@pytest.mark.parametrize("told", [{"total": 5}, {}])
def test_a_full_first_page_is_not_all_though_the_total_is_missing_or_that_of_pages(
    world: IngestWorld, source: FaultySource, told: Any
) -> None:
    def behaviour(query: Query) -> Any:
        page = int(query.get("page", "1"))
        return {"data": things(45)[page * 10 - 10 : page * 10], "page": page, "limit": 10} | told

    assert world.ingest(source.serves(behaviour)).records_processed == 45


def test_a_cursor_of_zero_is_the_end(world: IngestWorld, source: FaultySource) -> None:
    def behaviour(query: Query) -> Any:
        at = int(query.get("cursor", "0"))
        return {"data": things(10, at + 1), "next_cursor": at + 10 if at < 40 else 0}

    assert world.ingest(source.serves(behaviour)).records_processed == 50


def test_rows_that_move_between_pages_are_read_again_until_none_is_missing(
    world: IngestWorld, source: FaultySource
) -> None:
    rows = things(1000)
    seen: list[int] = []

    def behaviour(query: Query) -> Any:
        page = int(query.get("page", "1"))
        if page == 6 and 6 not in seen:
            del rows[:50]  # all that follow move forward: 50 of them from page 6 to page 5, which was read
        seen.append(page)
        return {"data": rows[page * 100 - 100 : page * 100], "total": len(rows), "page": page, "limit": 100}

    result = world.ingest({"url": source.serves(behaviour), "in_flight": 1})
    assert set(world.things.rows) >= {row["id"] for row in rows}
    assert result.records_processed == len(world.things.rows)


def test_rows_that_come_in_front_while_reading_are_found(world: IngestWorld, source: FaultySource) -> None:
    rows = things(1000)
    seen: list[int] = []

    def behaviour(query: Query) -> Any:
        page = int(query.get("page", "1"))
        if page == 4 and page not in seen:
            rows[:0] = things(30, 5001)
        seen.append(page)
        return {"data": rows[page * 100 - 100 : page * 100], "total": len(rows), "page": page, "limit": 100}

    result = world.ingest({"url": source.serves(behaviour), "in_flight": 1})
    assert set(world.things.rows) == {row["id"] for row in rows}
    assert (result.records_processed, result.gap) == (1030, 0)


def test_rows_added_at_the_end_while_reading_are_found(world: IngestWorld, source: FaultySource) -> None:
    rows = things(950)
    seen: list[int] = []

    def behaviour(query: Query) -> Any:
        page = int(query.get("page", "1"))
        answer = {"data": rows[page * 100 - 100 : page * 100], "total": len(rows), "page": page, "limit": 100}
        if page == 10 and page not in seen:
            rows.extend(things(120, 951))
        seen.append(page)
        return answer

    assert world.ingest(source.serves(behaviour)).records_processed in (950, 1070)


@pytest.mark.parametrize(
    "reply",
    [
        b"<html><body>Sign in</body></html>",
        b'{"error": "no such thing"}',
        b'{"data": null, "errors": [{"message": "x"}]}',
        b"null",
        b"",
        b"17",
        b'{"data": [{"id": 1}, {"id": 2}',
        b'{"id": 1, "name": "x"}',
        b'{"a": [{"id": 1}], "b": [{"id": 2}]}',
    ],
)
def test_an_answer_of_no_use_is_a_failure_that_is_not_tried_again(
    world: IngestWorld, source: FaultySource, reply: bytes
) -> None:
    with pytest.raises(SourceFailed) as caught:
        world.ingest(source.serves(lambda query: reply))
    assert not caught.value.retryable
    assert len(source.asked) == 1


def test_html_in_the_middle_is_a_failure_and_what_was_written_stays(world: IngestWorld, source: FaultySource) -> None:
    good = paged(things(1000))

    def behaviour(query: Query) -> Any:
        if query.get("page") == "7":
            return web.Response(text="<html>", content_type="text/html")
        return good(query)

    with pytest.raises(SourceFailed):
        world.ingest({"url": source.serves(behaviour), "in_flight": 1})
    assert len(world.things.rows) == 600


@pytest.mark.parametrize("reply", [b"[]", b'{"data": [], "total": 0}', b'{"data": null, "total": 0}'])
def test_an_empty_source_is_no_failure(world: IngestWorld, source: FaultySource, reply: bytes) -> None:
    result = world.ingest(source.serves(lambda query: reply))
    assert (result.records_processed, result.pages, result.rejected) == (0, 1, 0)


def test_a_source_that_is_down_may_be_tried_again(world: IngestWorld, source: FaultySource) -> None:
    with pytest.raises(SourceUnavailable) as caught:
        world.ingest(source.serves(lambda query: web.Response(status=503)))
    assert caught.value.retryable


def test_a_source_that_fails_now_and_then_is_asked_again(world: IngestWorld, source: FaultySource) -> None:
    good, failed = paged(things(500)), set[str]()

    def behaviour(query: Query) -> Any:
        page = query.get("page", "1")
        if page not in failed:
            failed.add(page)
            return web.Response(status=(429, 500, 503)[int(page) % 3])
        return good(query)

    assert world.ingest(source.serves(behaviour)).records_processed == 500


def test_a_next_link_to_elsewhere_is_followed_without_the_headers(world: IngestWorld, source: FaultySource) -> None:
    elsewhere = source.base.replace("127.0.0.1", "localhost")
    source.serves(lambda query: {"data": things(10, 11), "next": None}, "/other")
    url = source.serves(lambda query: {"data": things(10), "next": f"{elsewhere}/other"})
    world.feeds["shop"] = Feed(url, {"X-Key": "very secret"})
    assert world.ingest("shop").records_processed == 20
    assert ["X-Key" in headers for headers in source.headers] == [True, False]


def test_a_next_link_to_a_forbidden_address_is_a_failure(world: IngestWorld, source: FaultySource) -> None:
    url = source.serves(lambda query: {"data": things(10), "next": "http://169.254.169.254/latest"})
    with pytest.raises(SourceFailed):
        world.ingest(url)


# ---------------------------------------------------------------- records that are no records


def test_bad_records_are_kept_with_their_reasons_and_the_others_written(
    world: IngestWorld, source: FaultySource
) -> None:
    body = (
        b'{"data": [{"id": 1, "name": "one", "price": 12.50}, {"name": "no key"}, {"id": "x"}, 7, null, [],'
        b'{"id": 2, "price": NaN}, {"id": 3, "name": "this name is far too long for it"}, {"id": 4, "price": 1e400},'
        b'{"id": 99999999999999999999}, {"id": 5, "name": "\\u0000"}, {"id": 6, "changed": "0000-01-01T00:00:00Z"},'
        b'{"id": 7, "name": "\\ud800"}, {"id": null}, {"id": ' + b"9" * 5000 + b"},"
        b'{"id": 8, "name": ' + b"[" * 100_000 + b"]" * 100_000 + b'}, {"id": 9, "name": "nine", "extra": 1}]}'
    )
    result = world.ingest(source.serves(lambda query: body))
    assert sorted(world.things.rows) == [1, 9]
    assert world.things.rows[1][2] == Decimal("12.50")
    assert (result.records_processed, result.rejected, result.fetched) == (2, 15, 17)
    assert sorted(world.reasons) == [(1, place) for place in range(2, 17)]
    assert all(all(reasons) for reasons in world.reasons.values())
    assert result.drift["unknown_fields"] == {"extra": 1}
    assert sum(one["count"] for one in result.reasons) >= 15


def test_invalid_utf8_rejects_its_record_only(world: IngestWorld, source: FaultySource) -> None:
    result = world.ingest(source.serves(lambda query: b'[{"id": 1, "name": "\xff"}, {"id": 2}]'))
    assert (result.records_processed, result.rejected) == (1, 1)


def test_records_with_unknown_fields_are_rejected_when_asked(world: IngestWorld, source: FaultySource) -> None:
    url = source.serves(lambda query: [thing(1), thing(2, colour="red"), thing(3)])
    result = world.ingest(url, unknown_fields="reject")
    assert (result.records_processed, result.rejected) == (2, 1)
    assert result.reasons[0]["pointer"] == "/colour"


def test_a_key_that_comes_twice_is_one_record_and_the_last_counts(world: IngestWorld, source: FaultySource) -> None:
    def behaviour(query: Query) -> Any:
        page = int(query.get("page", "1"))
        rows = [thing(1, name=f"page {page}"), thing(1, name=f"page {page} again"), thing(page + 1)]
        return {"data": rows, "total": 9, "page": page, "limit": 3} if page < 4 else {"data": [], "total": 9, "page": 4}

    result = world.ingest({"url": source.serves(behaviour), "in_flight": 1})
    assert world.things.rows[1][1] == "page 3 again"
    assert (result.records_processed, result.duplicates, result.fetched) == (4, 5, 9)


def test_rows_that_the_database_refuses_are_rejected_records(world: IngestWorld, source: FaultySource) -> None:
    world.things.refuses = lambda row: row[0] == 3
    result = world.ingest(source.serves(lambda query: things(5)))
    assert (result.records_processed, result.rejected) == (4, 1)
    assert world.reasons == {(1, 3): ["The table does not take it."]}


@pytest.mark.parametrize("commit", ["page", "run"])
def test_too_many_rejected_records_end_the_job(world: IngestWorld, source: FaultySource, commit: str) -> None:
    rows = [thing(number) if number % 2 else {"name": "?"} for number in range(1, 201)]
    with pytest.raises(TooManyRejected) as caught:
        world.ingest(source.serves(paged(rows, size=50)), max_rejected=20, commit=commit)
    assert caught.value.details["rejected"] > 20
    assert bool(world.things.rows) == (commit == "page")
    assert world.bookmarks.rejected


# ---------------------------------------------------------------- transactions, resuming, stopping


def test_small_pages_that_have_come_share_a_transaction(world: IngestWorld, source: FaultySource) -> None:
    url = source.serves(paged(things(1000), size=10))
    assert world.ingest(url).pages == 100
    assert len(world.things.groups) < 100


def test_a_whole_run_is_one_transaction_or_none(world: IngestWorld, source: FaultySource) -> None:
    assert world.ingest(source.serves(paged(things(1000))), commit="run").records_processed == 1000
    assert world.things.groups == [1000]
    world.things.rows.clear()
    good = paged(things(1000))
    url = source.serves(lambda query: web.Response(status=400) if query.get("page") == "9" else good(query))
    with pytest.raises(SourceFailed):
        world.ingest(url, commit="run")
    assert not world.things.rows


class _KilledError(Exception):
    """Stands for a process that ends in the middle."""


@pytest.mark.parametrize("behaviour", [paged(things(1000)), by_cursor, by_next_link, by_header, by_offset])
@pytest.mark.parametrize("kept", [True, False])
def test_an_attempt_goes_on_where_the_one_before_was_killed(
    world: IngestWorld, source: FaultySource, behaviour: Any, kept: bool
) -> None:
    url = {"url": source.serves(behaviour), "in_flight": 1}
    run = world.new_run()
    world.handler = IngestHandler(world.supplies, group=1)

    def dies(rows: Any) -> None:
        if len(world.things.rows) >= 400:
            if not kept:
                world.things.put(rows)  # committed, but the bookmark was not kept any more
            raise _KilledError

    world.things.before_write = dies
    with pytest.raises(_KilledError):
        world.ingest(url, run=run)
    asked = len(source.asked)
    world.things.before_write = lambda rows: None
    result = world.ingest(url, run=world.new_run(job_id=run.job_id, token=2, attempt=2))
    assert sorted(world.things.rows) == list(range(1, 1001))
    assert (result.records_processed, result.pages, result.fetched, result.gap or 0) == (1000, 10, 1000, 0)
    assert len(source.asked) - asked <= 8


def test_an_attempt_after_the_end_only_tells_the_result(world: IngestWorld, source: FaultySource) -> None:
    url, run = source.serves(paged(things(300))), world.new_run()
    first = world.ingest(url, run=run)
    source.asked.clear()
    again = world.ingest(url, run=world.new_run(job_id=run.job_id, token=2, attempt=2))
    assert (again.records_processed, again.inserted, source.asked) == (first.records_processed, 300, [])


def test_a_lost_lease_ends_the_work(world: IngestWorld, source: FaultySource) -> None:
    world.bookmarks.holds = False
    with pytest.raises(Stopped):
        world.ingest(source.serves(paged(things(300))))


@pytest.mark.parametrize("silent", [1, 2])
def test_a_stop_is_heard_while_the_source_keeps_silent(world: IngestWorld, source: FaultySource, silent: int) -> None:
    stop, reached, good = StopToken(), threading.Event(), paged(things(300))

    def behaviour(query: Query) -> Any:
        if int(query.get("page", "1")) == silent:
            reached.set()
            return web.Response(status=503, headers={"Retry-After": "60"})
        return good(query)

    asking = threading.Thread(target=lambda: reached.wait(10) and stop.request(StopReason.CANCEL))
    asking.start()
    with pytest.raises(Stopped):
        world.ingest(source.serves(behaviour), run=world.new_run(stop=stop))
    asking.join()


def test_an_attempt_after_an_outage_goes_on(world: IngestWorld, source: FaultySource) -> None:
    good, down = paged(things(1000)), [True]

    def behaviour(query: Query) -> Any:
        return web.Response(status=503) if down[0] and query.get("page") == "6" else good(query)

    given, run = {"url": source.serves(behaviour), "in_flight": 1}, world.new_run()
    with pytest.raises(SourceUnavailable):
        world.ingest(given, run=run)
    assert len(world.things.rows) == 500
    down[0] = False
    source.asked.clear()
    result = world.ingest(given, run=world.new_run(job_id=run.job_id, attempt=2))
    assert (result.records_processed, result.inserted, result.pages) == (1000, 1000, 10)
    assert "/rows?page=5" not in source.asked


def test_progress_tells_records_and_their_total(world: IngestWorld, source: FaultySource) -> None:
    world.ingest(source.serves(paged(things(300))))
    assert (world.told[0].stage, world.told[0].unit, world.told[0].total) == ("ingesting", "records", 300)


# ---------------------------------------------------------------- incremental, feeds, fields


def test_an_incremental_source_is_asked_for_what_is_new(world: IngestWorld, source: FaultySource) -> None:
    asked_for: list[str | None] = []

    def behaviour(query: Query) -> Any:
        asked_for.append(query.get("since"))
        return [
            thing(1, changed="2026-01-02T03:04:05Z"),
            thing(2, changed="2026-01-02T04:04:05+02:00"),
            thing(3, changed=None),
        ]

    incremental = {"field": "changed", "parameter": "since", "start": "2025-01-01T00:00:00Z"}
    given = {"url": source.serves(behaviour), "incremental": incremental}
    assert world.ingest(given).bookmark == "2026-01-02T03:04:05Z"
    world.ingest(given)
    world.ingest(given, full=True)
    assert asked_for == ["2025-01-01T00:00:00Z", "2026-01-02T03:04:05Z", "2025-01-01T00:00:00Z"]


def test_a_source_with_finer_times_than_are_kept_is_asked_from_just_below(
    world: IngestWorld, source: FaultySource
) -> None:
    """What lies between a time and its rounded value would be passed over for ever."""
    rows = [thing(1, changed="2026-01-02T03:04:05.123456700Z"), thing(2, changed="2026-01-02T03:04:05.123456800Z")]
    came = rows[:1]

    def behaviour(query: Query) -> Any:
        since = query.get("since", "").rstrip("Z")
        return [row for row in came if row["changed"].rstrip("Z") >= since]

    given = {"url": source.serves(behaviour), "incremental": {"field": "changed", "parameter": "since"}}
    assert world.ingest(given).bookmark == "2026-01-02T03:04:05.123456Z"
    came = rows
    assert world.ingest(given).inserted == 1


def test_a_run_that_failed_moves_no_bookmark(world: IngestWorld, source: FaultySource) -> None:
    rows = [thing(number, changed=f"2026-01-01T00:00:{number % 60:02}Z") for number in range(1, 201)]
    good = paged(rows, size=50)
    given = {
        "url": source.serves(lambda query: b"null" if query.get("page") == "3" else good(query)),
        "incremental": {"field": "changed", "parameter": "since"},
    }
    with pytest.raises(SourceFailed):
        world.ingest(given)
    assert not [key for key in world.bookmarks.kept if key.startswith("ingest:")]


def test_a_feed_brings_its_headers_and_options(world: IngestWorld, source: FaultySource) -> None:
    source.serves(lambda query: {"a": [{"x": 1}], "b": {"list": things(3)}}, "/v1/list")
    world.feeds["shop"] = Feed(source.base + "/v1?key=0123456789abcdef", {"X-Key": "secret"}, {"records": "b.list"})
    result = world.ingest({"feed": "shop", "path": "list"})
    assert (result.records_processed, result.source) == (3, "the feed shop")
    assert source.headers[0]["X-Key"] == "secret"
    assert source.asked == ["/v1/list?key=0123456789abcdef"]
    assert "0123456789abcdef" not in json.dumps(world.bookmarks.kept) + result.model_dump_json()


def test_fields_are_renamed_and_taken_from_within(world: IngestWorld, source: FaultySource) -> None:
    url = source.serves(lambda query: [{"ID": 7, "who": {"name": "Ada", "x": 1}, "cost": {"eur": 0.10}}])
    fields = {"id": "ID", "name": "who.name", "price": "/cost/eur"}
    result = world.ingest({"url": url, "fields": fields})
    assert world.things.rows[7][:3] == (7, "Ada", Decimal("0.10"))
    assert result.drift["unknown_fields"] == {}


# ---------------------------------------------------------------- files


CSV = '\ufeffid;name;price;active;ratio\r\n1;"a; ""b""\nc";12.50;yes;0.5\r\n2;;;;\r\n3;too;many;cells;1;2\r\nx;;;;\r\n'


@pytest.mark.parametrize("place", ["url", "type", "upload", "gzip"])
def test_csv_is_read_row_by_row(world: IngestWorld, source: FaultySource, place: str) -> None:
    given: Any
    if place in ("upload", "gzip"):
        name = "things.csv" + (".gz" if place == "gzip" else "")
        data = gzip.compress(CSV.encode()) if place == "gzip" else CSV.encode()
        world.store.put(incoming_key(name), data)
        given = {"upload": name}
    else:
        kind = "text/csv" if place == "type" else "application/octet-stream"
        path = "/rows" if place == "type" else "/things.csv"
        given = source.serves(lambda query: web.Response(body=CSV.encode(), content_type=kind), path)
    result = world.ingest(given)
    assert world.things.rows[1] == (1, 'a; "b"\nc', Decimal("12.50"), None, True, 0.5)
    assert world.things.rows[2] == (2, None, None, None, None, None)
    assert (result.records_processed, result.rejected) == (2, 2)
    assert sorted(world.reasons) == [(1, 3), (1, 4)]


def test_ndjson_is_read_line_by_line(world: IngestWorld, source: FaultySource) -> None:
    lines = b'\xef\xbb\xbf{"id": 1}\r\n\n{"id": 2, "price": 0.30}\n{"id": NaN}\nnot json\n{"id": 3}'
    url = source.serves(lambda query: web.Response(body=lines), "/things.ndjson")
    result = world.ingest(url)
    assert sorted(world.things.rows) == [1, 2, 3]
    assert (result.records_processed, result.rejected) == (3, 2)


@pytest.mark.parametrize("name", ["things.json", "things.ndjson", "things.csv", "things"])
def test_an_upload_of_many_records_is_read_in_pieces(world: IngestWorld, name: str) -> None:
    rows = things(20_000)
    if name.endswith("csv"):
        data = "id,name\n" + "\n".join(f"{row['id']},{row['name']}" for row in rows)
    elif name.endswith("ndjson"):
        data = "\n".join(json.dumps(row) for row in rows)
    else:
        data = json.dumps(rows, indent=1)
    world.store.put(incoming_key(name), data.encode())
    result = world.ingest({"upload": name})
    assert (result.records_processed, result.rejected) == (20_000, 0)
    assert max(world.things.groups) <= 7500


def test_an_upload_goes_on_where_a_killed_attempt_was(world: IngestWorld) -> None:
    world.store.put(incoming_key("a.ndjson"), "\n".join(json.dumps(row) for row in things(20_000)).encode())
    run = world.new_run()

    def dies(rows: Any) -> None:
        if len(world.things.rows) >= 10_000:
            raise _KilledError

    world.things.before_write = dies
    with pytest.raises(_KilledError):
        world.ingest({"upload": "a.ndjson"}, run=run)
    world.things.before_write = lambda rows: None
    result = world.ingest({"upload": "a.ndjson"}, run=world.new_run(job_id=run.job_id, attempt=2))
    assert (result.records_processed, result.inserted) == (20_000, 20_000)


@pytest.mark.parametrize("data", [b'[{"id": 1}, {"id": 2}', b'[{"id": 1}] x', b"\xff\xfei\x00d\x00"])
def test_a_file_that_is_not_whole_is_a_failure(world: IngestWorld, data: bytes) -> None:
    world.store.put(incoming_key("a"), data)
    with pytest.raises(SourceFailed):
        world.ingest({"upload": "a"})


def test_what_came_before_a_failure_is_written(world: IngestWorld) -> None:
    world.store.put(incoming_key("a.json"), json.dumps(things(3000)).encode()[:-1])
    with pytest.raises(SourceFailed):
        world.ingest({"upload": "a.json"})
    assert len(world.things.rows) == 2500


def test_a_file_for_one_job_is_removed_once_its_records_are_in(world: IngestWorld) -> None:
    for name in ("_ingest-1.ndjson", "ingest-1.ndjson"):
        world.store.put(incoming_key(name), b'{"id": 1}\n')
        run = world.new_run()
        assert world.ingest({"upload": name}, run=run).inserted == 1
        again = world.ingest({"upload": name}, run=world.new_run(job_id=run.job_id, attempt=2))
        assert again.inserted == 1
        world.things.rows.clear()
    assert [item.key for item in world.store.list()] == [incoming_key("ingest-1.ndjson")]


def test_a_file_for_one_job_stays_when_that_fails(world: IngestWorld) -> None:
    world.store.put(incoming_key("_ingest-1.json"), b'[{"id": 1}')
    with pytest.raises(SourceFailed):
        world.ingest({"upload": "_ingest-1.json"})
    assert len(list(world.store.list())) == 1


@pytest.mark.parametrize("packed", [gzip.compress, lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])])
@pytest.mark.parametrize(
    ("name", "data"), [("/x.csv.gz", b"id,name\n1,a\n2,b\n"), ("/x.jsonl.gz", b'{"id": 1}\n{"id": 2}\n')]
)
def test_a_packed_file_by_url_is_unpacked(
    world: IngestWorld, source: FaultySource, name: str, data: bytes, packed: Any
) -> None:
    url = source.serves(lambda query: web.Response(body=packed(data), content_type="application/gzip"), name)
    assert world.ingest(url).records_processed == 2
    cut = source.serves(lambda query: web.Response(body=packed(data)[:-9], content_type="application/gzip"), name)
    with pytest.raises(SourceFailed):
        world.ingest(cut)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (name, text)
        for name in ("/x.csv", "/x.ndjson", "/x.json")
        for text in ("<html>Log in</html>", "\n <?xml?>\n<a/>")
    ]
    + [("/x.csv", '{"error": "who are you?"}'), ("/x.json", '{"error": "who are you?"}')],
)
def test_something_else_instead_of_a_file_is_no_empty_file(
    world: IngestWorld, source: FaultySource, name: str, text: str
) -> None:
    with pytest.raises(SourceFailed):
        world.ingest(source.serves(lambda query: web.Response(text=text), name))


def test_a_file_that_is_not_there_is_told(world: IngestWorld) -> None:
    with pytest.raises(FlexError) as caught:
        world.ingest({"upload": "nothing.csv"})
    assert caught.value.code == "artefact_missing"


# ---------------------------------------------------------------- real databases


@pytest.fixture(params=["sqlite", "postgres"])
def real(request: pytest.FixtureRequest, source: FaultySource, tmp_path: Path) -> Iterator[IngestWorld]:
    if request.param == "sqlite":
        (tmp_path / "records.sqlite").touch()
        url = f"sqlite:///{tmp_path}/records.sqlite"
    else:
        fresh: FreshDatabase = request.getfixturevalue("fresh_database")
        url = fresh(request.getfixturevalue("postgres15_url"))
    world = IngestWorld(tmp_path, HttpFetcher(source.loop, OutgoingPolicy.of(["127.0.0.1"])), url)
    yield world
    cast(OpenTables, world.supplies.tables).close()


@pytest.mark.parametrize("commit", ["page", "run"])
def test_records_come_into_a_database_exactly_once(real: IngestWorld, source: FaultySource, commit: str) -> None:
    rows = [thing(number, price=number / 4, changed="2026-01-01T00:00:00Z", ratio=0.5) for number in range(1, 1001)]
    rows[700] = thing(1, name="came twice")
    rows[800] = {"name": "has no key"}
    rows[900] = thing(901, name="much too long a name for this")
    url = source.serves(paged(rows))
    real.handler = IngestHandler(real.supplies, group=1)
    first = real.ingest(url, commit=commit)
    counts = (first.inserted, first.updated + first.unchanged - (commit == "page"), first.rejected, first.duplicates)
    assert (first.records_processed, *counts, first.gap) == (997, 997, 0, 2, 1, 1)
    rows[0] = thing(1, name="new name")
    rows[700] = thing(701)
    again = real.ingest(url, commit=commit)
    assert (again.inserted, again.updated, again.unchanged, again.rejected) == (1, 1, 996, 2)
    stored = real.page("things")
    assert [row[0] for row in stored] == [number for number in range(1, 1001) if number not in (801, 901)]
    assert stored[0][:2] == (1, "new name")
    assert stored[1][1:3] == ("thing 2", Decimal("0.50"))


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({"collection": "nothing", "source": "http://127.0.0.1/"}, "/collection"),
        ({"collection": "things"}, "/source"),
        ({"collection": "things", "source": "unknown"}, "/source"),
        ({"collection": "things", "source": "http://10.0.0.1/"}, "/source/url"),
        (
            {
                "collection": "things",
                "source": {"url": "http://127.0.0.1/", "incremental": {"field": "no", "parameter": "p"}},
            },
            "/source/incremental/field",
        ),
        (
            {"collection": "things", "source": {"url": "http://127.0.0.1/", "fields": {"no": "x"}}},
            "/source/fields/no",
        ),
        ({"collection": "things", "source": {"upload": "x", "storage": "other"}}, "/source/storage"),
    ],
)
def test_what_is_wrong_with_a_request_is_told_before_the_work(world: IngestWorld, data: Any, pointer: str) -> None:
    request = world.handler.request_model.model_validate(data)
    assert [fault.pointer for fault in world.handler.faults(request)] == [pointer]


def test_the_job_is_about_the_collections_connection_and_holds_the_collection(world: IngestWorld) -> None:
    request = world.request("http://127.0.0.1/")
    assert world.handler.connection(request) == "db"
    assert [(claim.key, claim.mode) for claim in world.handler.claims(request)] == [("collection:things", "exclusive")]
