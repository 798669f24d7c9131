"""Records of one collection: from JSON to rows and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from engines.records.fields import Row, Value
from handlers.base import Fault
from handlers.collections import Collection, properties_of
from handlers.collections.pages import PageReader, ReadPage
from handlers.collections.properties import escaped
from handlers.collections.showing import RowShower
from handlers.collections.values import SHOWN_INTEGER, Unfit, decoded, from_text, text_of, told

__all__ = ["ReadPage", "Readers", "RecordInvalid", "RecordReader", "decode"]


class RecordInvalid(Exception):
    """A record, or a question about records, does not fit the collection."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.pointer or '/'}: {fault.detail}" for fault in faults))
        self.faults = tuple(faults)


def decode(document: bytes) -> Any:
    """JSON as the readers like it best: numbers with a point as `Decimal`, digit by digit. Raises `ValueError`."""
    return decoded(document)


def merge_patched(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, one in patch.items():
        if one is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patched(merged.get(name), one)
    return merged


class RecordReader:
    """Reads and shows records of one collection. Safe in any thread; made once per collection, then kept."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        table = collection.table
        self._properties = properties_of(collection)
        self._by_name = {one.field.name: one for one in self._properties}
        self._key = table.field(table.key)
        self._key_position = table.key_position
        self._position = {name: position for position, name in enumerate(table.names)}
        self._generated = table.generated
        self._pages = PageReader(self._properties, self._faulty, generated_key=table.key if table.generated else None)
        self._shower = RowShower(table)

    # -- from JSON

    def record(self, value: Any) -> Row:
        """One record, from decoded JSON; defaults are filled in. Raises `RecordInvalid` with all its faults."""
        row, faults = self._row(value, known_only=True)
        if faults:
            raise RecordInvalid(faults)
        return row

    def given(self, value: Any) -> dict[str, Value]:
        """The fields that are there in part of a record (a merge patch: null for those to be emptied)."""
        if not isinstance(value, Mapping):
            raise RecordInvalid([Fault("", f"Expected an object, got {told(value)}.")])
        faults = self._unknown(value)
        found = {}
        for name, one in value.items():
            if name in self._by_name:
                try:
                    found[name] = self._by_name[name].value(one)
                except Unfit as error:
                    faults.append(Fault(f"/{escaped(name)}", str(error)))
        if faults:
            raise RecordInvalid(faults)
        return found

    def keyed(self, value: Any, key: Value) -> Row:
        """One record whose key is known from elsewhere; a record may bring it, but no other. Raises `RecordInvalid`."""
        name = self._key.name
        if isinstance(value, Mapping) and value.get(name) is None:
            value = {**value, name: text_of(self._key, key)}
        row = self.record(value)
        if row[self._key_position] != key:
            raise RecordInvalid([Fault(f"/{name}", "This is another key than the one in the URL.")])
        return row

    def merged(self, row: Row, patch: Mapping[str, Any]) -> Row:
        """The record after a JSON merge patch (RFC 7396), which is applied within fields that hold JSON too.
        Raises `RecordInvalid`."""
        inner = {
            name: merge_patched(decoded(old) if (old := row[self._position[name]]) is not None else None, one)
            for name, one in patch.items()
            if name in self._by_name and self._by_name[name].field.kind == "json" and one is not None
        }
        given = self.given({**patch, **inner})
        return tuple(given.get(name, old) for name, old in zip(self._by_name, row, strict=True))

    def read(self, items: Sequence[msgspec.Raw | bytes]) -> ReadPage:
        """Many records, each the bytes of a JSON value. Never raises for what they are: what is no record of this
        collection is rejected with its reasons. Unknown fields are counted, not rejected."""
        return self._pages.read(items)

    def _faulty(self, value: Any) -> tuple[Row, list[Fault]]:
        return self._row(value, known_only=False)

    def _row(self, value: Any, *, known_only: bool) -> tuple[Row, list[Fault]]:
        if not isinstance(value, Mapping):
            return (), [Fault("", f"Expected an object, got {told(value)}.")]
        faults = self._unknown(value) if known_only else []
        row: list[Value] = []
        for one in self._properties:
            name = one.field.name
            if name not in value:
                if one.needed and not (self._generated and name == self._key.name):
                    faults.append(Fault(f"/{name}", "This field is required."))
                row.append(one.default)
                continue
            try:
                row.append(self._value(name, value[name]))
            except Unfit as error:
                faults.append(Fault(f"/{name}", str(error)))
        return tuple(row), faults

    def _value(self, name: str, given: Any) -> Value:
        if given is None and self._generated and name == self._key.name:
            return None
        return self._by_name[name].value(given)

    def _unknown(self, value: Mapping[str, Any]) -> list[Fault]:
        return [
            Fault(f"/{escaped(name)}", "The collection has no such field.")
            for name in value
            if name not in self._by_name
        ]

    # -- to JSON

    def shown(self, row: Row) -> dict[str, Any]:
        """What `msgspec.json.Encoder(decimal_format="number")` makes the JSON object of: decimals of up to 15 digits
        are `Decimal`, larger ones and integers beyond 2^53 are strings, JSON is `msgspec.Raw`."""
        return self._shower.shown(row)

    def encode(self, rows: Sequence[Row]) -> bytes:
        """A JSON array of objects."""
        return self._shower.encode(rows)

    def encode_one(self, row: Row) -> bytes:
        """A JSON object."""
        return self._shower.encode_one(row)

    def encode_lines(self, rows: Sequence[Row]) -> bytes:
        """A JSON object a line (NDJSON)."""
        return self._shower.encode_lines(rows)

    def etag(self, row: Row) -> str:
        """A strong entity tag, with its quotes."""
        return f'"{hashlib.sha256(self._shower.canonical(row)).hexdigest()[:32]}"'

    # -- from and to text

    def key_of(self, text: str) -> Value:
        """The key in a URL. Raises `RecordInvalid` when no record can have it."""
        return self.value_of(self._key.name, text)

    def key_value(self, given: Any) -> Value:
        """The key in JSON: itself, or an object that has it. Raises `RecordInvalid`."""
        name = self._key.name
        inside = isinstance(given, Mapping)
        try:
            if inside and name not in given:
                raise Unfit("The key is missing.")
            return self._by_name[name].value(given[name] if inside else given)
        except Unfit as error:
            raise RecordInvalid([Fault(f"/{name}" if inside else "", str(error))]) from None

    def key_shown(self, key: Value) -> int | str:
        """A key in JSON."""
        fitting = isinstance(key, int) and -SHOWN_INTEGER <= key <= SHOWN_INTEGER
        return key if fitting else text_of(self._key, key)

    def key_text(self, row: Row) -> str:
        """A record's key as it stands in a URL, not percent-encoded."""
        return text_of(self._key, row[self._key_position])

    def value_of(self, field: str, text: str) -> Value:
        """A value in a query string. Raises `RecordInvalid` (pointer `/FIELD`), also for a field there is not."""
        if field not in self._by_name:
            raise RecordInvalid([Fault(f"/{escaped(field)}", "The collection has no such field.")])
        try:
            return from_text(self._by_name[field].field, text)
        except Unfit as error:
            raise RecordInvalid([Fault(f"/{field}", str(error))]) from None


class Names(Protocol):
    """What of `handlers.supplies.Collections` is needed here."""

    def collection(self, name: str) -> Collection: ...


class Readers:
    """The readers of all collections, each made once for each form of its collection."""

    def __init__(self, collections: Names) -> None:
        self._collections = collections
        self._made: dict[str, RecordReader] = {}

    def reader(self, name: str) -> RecordReader:
        """Of a collection as it is declared now. Raises `UnknownCollection`."""
        collection = self._collections.collection(name)
        found = self._made.get(name)
        if found is None or found.collection.digest != collection.digest:
            found = self._made[name] = RecordReader(collection)
        return found
