"""Documents are cut out of the server's answers whole, in their order, and nothing else is taken for them."""

from __future__ import annotations

import bson
import pytest
from bson import Int64
from bson.raw_bson import RawBSONDocument

from engines.mongodb.batches import answered, elements
from engines.mongodb.documents import Malformed


def documents(number: int) -> list[bytes]:
    return [bson.encode({"_id": position, "text": "x" * (position % 40)}) for position in range(number)]


def array_of(found: list[bytes]) -> bytes:
    return bytes(bson.encode({"a": [RawBSONDocument(one) for one in found]})[7:-1])


def cursor_of(found: list[bytes], number: int, **further: object) -> memoryview:
    batch = [RawBSONDocument(one) for one in found]
    return memoryview(bson.encode({"firstBatch": batch, **further, "id": Int64(number), "ns": "shop.orders"}))


@pytest.mark.parametrize("number", [0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 1001, 12_345])
def test_an_array_gives_its_documents_in_their_order(number: int) -> None:
    found = documents(number)
    assert elements(memoryview(array_of(found))) == (b"".join(found), number)


@pytest.mark.parametrize("cut", [1, 2, 5, 20])
def test_an_array_that_is_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(Malformed):
        elements(memoryview(array_of(documents(12)))[:-cut])


def test_an_array_of_something_else_is_refused() -> None:
    with pytest.raises(Malformed):
        elements(memoryview(bson.encode({"a": ["one", "two"]})[7:-1]))


def test_a_document_that_claims_to_be_endless_is_refused() -> None:
    array = bytearray(array_of(documents(3)))
    array[7:11] = (-1).to_bytes(4, "little", signed=True)
    with pytest.raises(Malformed):
        elements(memoryview(array))


@pytest.mark.parametrize(
    "further",
    [
        {},
        {"partialResultsReturned": True, "atClusterTime": bson.Timestamp(5, 1)},
        {"postBatchResumeToken": {"_data": "82"}, "note": "text"},
    ],
)
def test_the_cursor_is_found_whatever_stands_beside_it(further: dict[str, object]) -> None:
    found = documents(3)
    array, number = answered(cursor_of(found, 1 << 60, **further))
    assert (elements(array), number) == ((b"".join(found), 3), 1 << 60)


def test_an_id_inside_the_documents_is_not_the_cursors() -> None:
    inside = bson.encode({"id": Int64(7), "firstBatch": [{"id": Int64(8)}]})
    assert answered(cursor_of([inside], 0))[1] == 0


def test_an_answer_without_documents_is_refused() -> None:
    with pytest.raises(Malformed, match="no whole batch"):
        answered(memoryview(bson.encode({"id": Int64(7), "ns": "shop.orders"})))


def test_an_answer_that_is_cut_short_is_refused() -> None:
    with pytest.raises(Malformed):
        answered(cursor_of(documents(3), 7)[:-20])
