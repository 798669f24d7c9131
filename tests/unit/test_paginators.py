"""From a first answer to the way on; records found in documents; long streams cut into records."""

from __future__ import annotations

import csv
import io
import json
import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import SourceFailed
from handlers.ingest.documents import Raw, dig, items, members, records_in, steps_of
from handlers.ingest.facts import Facts
from handlers.ingest.guards import Seen, key_hash
from handlers.ingest.links import followed, looks_like_link, next_in_header, with_known, without_known
from handlers.ingest.paginators import Answer, first_url, way_found_again, way_kept, way_on
from handlers.ingest.splitting import csv_rows, json_array, json_lines
from handlers.sources import PaginatorRequest

ROWS = [{"id": number} for number in range(10)]
URL = "https://a.example/x"


def way(body: Any, url: str = URL, link: str = "", **asked: Any) -> Any:
    data = json.dumps(body).encode()
    steps, records = records_in(data, None, "the source")
    answer = Answer(url, url, {"link": link} if link else {}, data, len(records.items))
    found = way_on(PaginatorRequest(**asked), answer, Facts.of(data, steps), "the source")
    assert way_found_again(json.loads(json.dumps(way_kept(found)))) == found
    return found


@pytest.mark.parametrize(
    ("body", "second", "pages"),
    [
        ({"data": ROWS, "total": 95, "page": 1, "limit": 10}, "page=2", 10),
        ({"data": ROWS, "total": "95", "page": "1", "per_page": "10"}, "page=2", 10),
        ({"data": ROWS, "meta": {"pagination": {"total": 95, "current_page": 1}}}, "page=2", 10),
        ({"content": ROWS, "totalElements": 95, "totalPages": 10, "number": 0, "size": 10}, "page=1", 10),
        ({"items": ROWS, "totalCount": 95, "pageNumber": 1, "pageSize": 10}, "pageNumber=2", 10),
        ({"items": ROWS, "offset": 0, "limit": 10, "total": 95}, "offset=10", 10),
        ({"issues": ROWS, "startAt": 0, "maxResults": 10, "total": 95}, "startAt=10", 10),
        ({"value": ROWS, "skip": 0, "take": 10, "total": 95}, "skip=10", 10),
        ({"data": ROWS, "page": 1, "limit": 500, "total": 95}, "page=2", 10),
        ({"data": ROWS, "total_pages": 10}, "page=2", 10),
        ({"data": ROWS, "page": 1, "has_more": True}, "page=2", None),
        ({"data": ROWS, "page": 1, "total": 3}, "page=2", None),
    ],
)
def test_pages_that_are_counted(body: Any, second: str, pages: int | None) -> None:
    found = way({**body} if body.get("total") != 3 else {**body, "has_more": True})
    assert found.url(URL, 1) == f"{URL}?{second}"
    assert found.expected() == pages


@pytest.mark.parametrize(
    ("body", "second"),
    [
        ({"data": ROWS, "next_cursor": "abc"}, "?cursor=abc"),
        ({"data": ROWS, "paging": {"nextCursor": "a=b"}}, "?cursor=a%3Db"),
        ({"items": ROWS, "nextPageToken": "t"}, "?pageToken=t"),
        ({"items": ROWS, "next_page_token": "t"}, "?page_token=t"),
        ({"Items": ROWS, "NextToken": "t"}, "?NextToken=t"),
        ({"items": ROWS, "nextToken": "t"}, "?nextToken=t"),
        ({"members": ROWS, "response_metadata": {"next_cursor": "dXNlcjo="}}, "?cursor=dXNlcjo%3D"),
        ({"data": ROWS, "pageInfo": {"hasNextPage": True, "endCursor": "e"}}, "?after=e"),
        ({"data": ROWS, "next_page": 2}, "?page=2"),
        ({"data": ROWS, "next_offset": 10}, "?offset=10"),
        ({"data": ROWS, "page": 1, "total": 95, "next_cursor": "abc"}, "?cursor=abc"),
        ({"count": 95, "next": f"{URL}?page=2", "previous": None, "results": ROWS}, "?page=2"),
        ({"data": ROWS, "links": {"next": "/x?cursor=1"}}, "?cursor=1"),
        ({"data": ROWS, "links": [{"rel": "self", "href": "/"}, {"rel": "next", "href": "?n=1"}]}, "?n=1"),
        ({"_embedded": {"a": ROWS}, "_links": {"next": {"href": "/x?page=2"}}}, "?page=2"),
        ({"value": ROWS, "@odata.nextLink": f"{URL}?$skip=10"}, "?$skip=10"),
        ({"records": ROWS, "done": False, "nextRecordsUrl": "/x?more"}, "?more"),
    ],
)
def test_pages_that_are_named_by_the_one_before(body: Any, second: str) -> None:
    found = way(body)
    data = json.dumps(body).encode()
    mark = found.mark(Answer(URL, URL, {}, data, 10))
    assert found.url(URL, URL, mark) == URL + second


def test_the_last_page_names_none() -> None:
    found = way({"data": ROWS, "pageInfo": {"hasNextPage": True, "endCursor": "e"}})
    last = json.dumps({"data": ROWS, "pageInfo": {"hasNextPage": False, "endCursor": "f"}}).encode()
    assert found.mark(Answer(URL, URL, {}, last, 10)) is None


def test_a_link_header_leads_on() -> None:
    link = f'<{URL}?page=1>; rel="first prev", <{URL}?a=1,2&page=3>; title="a, b"; rel="next"'
    found = way(ROWS, link=link)
    assert found.mark(Answer(URL, URL, {"link": link}, b"[]", 10)) == f"{URL}?a=1,2&page=3"


@pytest.mark.parametrize(
    "body",
    [
        ROWS,
        {"data": ROWS},
        {"data": ROWS, "count": 10},
        {"data": ROWS, "total": 10},
        {"data": ROWS, "has_more": False},
        {"data": ROWS, "next": None},
        {"data": ROWS, "next_cursor": ""},
    ],
)
def test_nothing_more_is_nothing_more(body: Any) -> None:
    assert way(body).kind == "none"


@pytest.mark.parametrize(
    "body",
    [
        {"data": ROWS, "total": 11},
        {"data": ROWS, "has_more": True},
        {"hits": {"total": {"value": 95}, "hits": ROWS}},
        {"a": ROWS, "count": 12},
    ],
)
def test_more_without_a_way_is_a_failure(body: Any) -> None:
    with pytest.raises(SourceFailed):
        way(body)


def test_the_query_of_the_url_says_what_pages_are_called() -> None:
    found = way({"data": ROWS, "total": 95}, url=f"{URL}?p=3")
    assert found.url(f"{URL}?p=3", 1) == f"{URL}?p=4"


def test_what_is_named_is_asked_for_first() -> None:
    asked = PaginatorRequest(style="page", page_parameter="p", first_page=0, size=50, size_parameter="n")
    assert first_url(f"{URL}?a=b", asked) == f"{URL}?a=b&n=50&p=0"
    assert first_url(URL, PaginatorRequest()) == URL


# ---------------------------------------------------------------- links


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("<a>; rel=next", "a"),
        ('<a>; rel="prev", <b>; REL="Next"', "b"),
        ("<a>; rel=last; rel=next", None),
        ('<a;b>; x="<c>; rel=next"; rel=self', None),
        ("<a>;rel = next , <b>;rel=last", "a"),
    ],
)
def test_link_headers(header: str, expected: str | None) -> None:
    assert next_in_header(header) == expected


def test_links_are_followed_from_where_they_stand() -> None:
    assert followed("https://a.example/v1/x?page=1", "?page=2") == "https://a.example/v1/x?page=2"
    assert followed("https://a.example/v1/x", "y?z") == "https://a.example/v1/y?z"
    assert not looks_like_link("eyJpZCI6MX0=") and not looks_like_link("a b/c") and looks_like_link("/x")


def test_a_kept_link_is_without_the_secrets_of_the_first_url() -> None:
    asked, link = f"{URL}?key=secret&q=1", "/x?key=secret&q=1&page=2"
    kept = without_known(link, asked)
    assert kept == "/x?page=2"
    assert with_known(kept, asked) == "/x?page=2&key=secret&q=1"


# ---------------------------------------------------------------- records in documents


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ([], "/"),
        ({"data": ROWS, "included": ROWS, "errors": ROWS}, "/data"),
        ({"meta": {}, "things": ROWS}, "/things"),
        ({"results": ROWS, "categories": ROWS}, "/results"),
        ({"data": {"items": ROWS}, "warnings": [{"a": 1}]}, "/data/items"),
        ({"a": {"b": {"c": ROWS}}}, "/a/b/c"),
        ({"data": [], "total": 0, "tags": []}, "/data"),
        ({"tags": ["a", "b"], "rows": ROWS}, "/rows"),
    ],
)
def test_records_are_found(body: Any, place: str) -> None:
    assert records_in(json.dumps(body).encode(), None, "it")[0] == steps_of(place)


def test_several_places_are_named_in_the_failure() -> None:
    with pytest.raises(SourceFailed) as caught:
        records_in(json.dumps({"a": ROWS, "b": ROWS}).encode(), None, "it")
    assert "/a, /b" in caught.value.message


@pytest.mark.parametrize("path", ["a.b", "/a/b"])
def test_a_place_may_be_named(path: str) -> None:
    body = json.dumps({"a": {"b": ROWS, "c": ROWS}}).encode()
    assert len(records_in(body, steps_of(path), "it")[1].items) == 10
    assert len(records_in(b'{"id": 1}', steps_of("/"), "it")[1].items) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=6), st.dictionaries(st.text(max_size=4), JSON, max_size=4))
def test_cutting_by_brackets_finds_what_a_parser_finds(array: list[Any], mapping: dict[str, Any]) -> None:
    spoilt = json.dumps([*array, float("nan")], indent=1).encode()  # NaN keeps the parser of C from it
    found = items(spoilt)
    assert [json.loads(bytes(one)) for one in found.items[:-1]] == array
    assert list(found.broken) == [len(array)]
    mixed = json.dumps(mapping | {"NaN": float("nan")}).encode()
    cut = members(mixed)
    assert {name: json.loads(bytes(cut[name])) for name in mapping if name != "NaN"} == {
        name: value for name, value in mapping.items() if name != "NaN"
    }


@pytest.mark.parametrize("data", [b"[1, NaN", b"[1, NaN}", b"[1, NaN] 2", b'{"a": NaN', b"NaN", b"[NaN]]"])
def test_what_cannot_be_cut_is_told(data: bytes) -> None:
    with pytest.raises(ValueError):
        items(data) if data[:1] == b"[" else members(data)


def test_an_answer_that_ends_within_a_string_is_seen_at_once() -> None:
    """Trying every quote in it as a beginning would take days, with the interpreter held."""
    for data in (b'["' + b'\\"' * 500_000, b'{"a": "' + b'\\"' * 500_000):
        began = time.monotonic()
        with pytest.raises(ValueError, match="does not end"):
            items(data) if data.startswith(b"[") else members(data)
        assert time.monotonic() - began < 10
    assert next_in_header("<" * 500_000) is None


def test_digging() -> None:
    document = Raw(b'{"a": [{"b": 1}, {"c": {"d/e": 2}}]}')
    found = dig(document, steps_of("/a/1/c/d~1e"))
    assert found is not None and bytes(found) == b"2"
    assert dig(document, steps_of("a.7.c")) is None


# ---------------------------------------------------------------- long streams


def in_blocks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(st.lists(JSON, max_size=8), st.integers(1, 9))
def test_an_array_is_cut_however_its_blocks_fall(array: list[Any], size: int) -> None:
    data = json.dumps(array, indent=1).encode()
    found = [raw for batch in json_array(in_blocks(data, size), "it") for raw, _ in batch]
    assert [json.loads(bytes(one)) for one in found] == array


@given(st.lists(JSON, max_size=8), st.integers(1, 9))
def test_lines_are_cut_however_their_blocks_fall(array: list[Any], size: int) -> None:
    data = "\r\n\n".join(json.dumps(one) for one in array).encode()
    found = [raw for batch in json_lines(in_blocks(data, size), "it") for raw, _ in batch]
    assert [json.loads(bytes(one)) for one in found] == array


@given(
    st.lists(st.lists(st.text(alphabet='a;,"\n\r é', max_size=5), min_size=3, max_size=3), max_size=5),
    st.integers(1, 9),
)
def test_csv_is_read_as_it_was_written(rows: list[list[str]], size: int) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["a", "b", "c"], *rows])
    batches = csv_rows(in_blocks(text.getvalue().encode(), size), {}, "it")
    found = [json.loads(bytes(raw)) for batch in batches for raw, why in batch if why is None]
    assert found == [{name: cell for name, cell in zip("abc", row, strict=True) if cell} for row in rows]


def test_csv_that_is_none_is_told() -> None:
    for data in (b"a,a\n1,2\n", b'a,b\n"x,1\n', b"\xff\xfea\x00"):
        with pytest.raises(SourceFailed):
            list(csv_rows([data], {}, "it"))


# ---------------------------------------------------------------- what was seen


def test_what_was_seen_is_known_and_bounded() -> None:
    chance = random.Random(1)
    seen, numbers = Seen(most=5000), [chance.getrandbits(64) for _ in range(5000)]
    assert all(seen.add(key_hash(number)) for number in numbers)
    assert not any(seen.add(key_hash(number)) for number in numbers)
    assert seen.full and key_hash("another") not in seen
    assert seen.add(key_hash("another")) and seen.count == 5000
