"""Whatever comes in at the doors of records: an answer or a problem with a known code, never a 500."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from handlers.collections.ready import READY
from service.http.problems import all_codes
from tests.integration.real_service import Answer
from tests.integration.records_world import BOOK, declaration
from tests.integration.test_http_fuzz import ANY_TEXT, HEADER_VALUE, JSON_VALUE, Bench, dumped

FIELDS = sorted(BOOK["properties"])
VALUE = JSON_VALUE | st.sampled_from(["0000-01-01", "2026-02-30", "1e400", "-0.00", "\x00", "9" * 40, 10**400, 1e308])
RECORD = st.dictionaries(st.sampled_from(FIELDS) | ANY_TEXT, VALUE, max_size=6)
OPERATORS = st.sampled_from(["", "[ne]", "[gt]", "[gte]", "[lt]", "[lte]", "[null]", "[eq]", "[like]", "[", "]"])
PARAMETER = st.tuples(st.sampled_from([*FIELDS, "page", "limit", "sort", "cursor", "format"]) | ANY_TEXT, OPERATORS)
QUESTION = st.lists(
    st.tuples(PARAMETER.map("".join), ANY_TEXT | st.sampled_from(["1", "0", "-isbn", "csv"])), max_size=4
)
CONDITIONS = st.dictionaries(st.sampled_from(["If-Match", "If-None-Match", "Accept"]), HEADER_VALUE | st.just("*"))
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("fuzz"))
    assert made.ask("PUT", "/collections/books", dumped(declaration("shop"))).status == 201
    yield made
    made.close()


def is_an_answer(answer: Answer) -> None:
    if answer.status in {200, 201, 204, 304}:
        return
    assert 400 <= answer.status < 500, (answer.status, answer.body)
    assert answer.code in all_codes(), answer.body
    for error in answer.json.get("errors", []):
        assert error["pointer"].startswith("#") and error["detail"]


@FUZZ
@given(method=st.sampled_from(["PUT", "PATCH", "GET", "DELETE"]), key=ANY_TEXT, body=RECORD | VALUE, headers=CONDITIONS)
@example(method="PUT", key="\x00", body={"title": "T"}, headers={})
@example(method="PUT", key="k", body={"title": "T", "extra": {"a": {}}, "weight": "1E-10"}, headers={"If-Match": '"'})
def test_one_record(bench: Bench, method: str, key: str, body: Any, headers: dict[str, str]) -> None:
    sent = b"" if method in ("GET", "DELETE") else dumped(body)
    is_an_answer(bench.ask(method, f"/api/books/{quote(key, safe='')}", sent, headers))


@FUZZ
@given(body=RECORD | VALUE)
def test_a_new_record(bench: Bench, body: Any) -> None:
    is_an_answer(bench.ask("POST", "/api/books", dumped(body)))


@FUZZ
@given(question=QUESTION, headers=CONDITIONS)
@example(question=[("cursor", "WyIiLDEsIlx1MDAwMCJd")], headers={})
@example(question=[("published", "0001-01-01"), ("pages[gt]", str(2**63))], headers={})
def test_a_page(bench: Bench, question: list[tuple[str, str]], headers: dict[str, str]) -> None:
    is_an_answer(bench.ask("GET", f"/api/books?{urlencode(question)}", headers=headers))


@FUZZ
@given(document=st.dictionaries(st.sampled_from(["connection", "key", "schema", "table", "source"]), JSON_VALUE))
@example(document={**READY["courses"], "connection": "shop", "table": "a.b"})
def test_a_declaration(bench: Bench, document: Any) -> None:
    whole = {**declaration("shop"), **document}
    is_an_answer(bench.ask("PUT", "/collections/fuzzed?dry_run=true", dumped(whole)))
