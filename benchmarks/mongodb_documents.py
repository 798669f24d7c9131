"""The documents of the MongoDB benchmarks: of mixed types, about 430 bytes each, the same in every run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
from bson import Binary, Decimal128, Int64, ObjectId

DATABASE = "shop"
COLLECTIONS = ("orders", "customers", "visits")
WORDS = ("order", "customer", "delivery", "invoice", "paid", "returned", "Berlin", "Lisbon", "Osaka", "green box")
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def encoded(collection: str, number: int) -> Iterator[bytes]:
    """`number` documents of a collection as BSON."""
    chance = random.Random(collection)
    return (bson.encode(_document(position, chance)) for position in range(number))


def _document(position: int, chance: random.Random) -> dict[str, Any]:
    words = chance.choices(WORDS, k=9)
    return {
        "_id": ObjectId(position.to_bytes(4, "big") + chance.randbytes(8)),
        "number": Int64(position),
        "placed_at": BEGAN + timedelta(seconds=position),
        "paid": position % 3 == 0,
        "price": Decimal128(f"{position % 90_000}.{position % 100:02}"),
        "weight": chance.random(),
        "note": " ".join(words),
        "address": {"street": f"{words[0]} street {position % 500}", "city": words[6], "floor": None},
        "lines": [{"sku": f"sku-{chance.randrange(10**6)}", "count": count} for count in range(1, 2 + position % 4)],
        "tags": words[:3],
        "token": Binary(chance.randbytes(16)),
    }
