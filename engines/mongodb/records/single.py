"""One record at a time: made, changed, removed, without transactions, which a server alone does not have."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure, WriteError

from engines.errors import RecordExists, RecordRefused, TargetBusy
from engines.mongodb.address import Address
from engines.mongodb.connection import Document, words_of
from engines.mongodb.records.pages import projection
from engines.mongodb.records.place import highest_key, next_key, pass_key, refuses
from engines.mongodb.records.values import document_of, into, now, row_of, unfit, unsendable
from engines.records.base import Decide
from engines.records.fields import Row, Table, Value

GIVEN_TRIES = 50
AT_ONCE = 200
"""Keys of one call; servers that look for each in a list get slow with many."""


class Single:
    def __init__(
        self, database: Database[Document], documents: Collection[Document], table: Table, address: Address
    ) -> None:
        self._database, self._documents, self._table, self._address = database, documents, table, address
        self._key = table.field(table.key)

    def read(self, key: Value) -> Row | None:
        found = self._documents.find_one(self._by_key(key), projection(self._table))
        return None if found is None else row_of(self._table.fields, found)

    def _by_key(self, key: Value) -> Document:
        return {self._table.key: into(self._key, key)}

    def insert(self, row: Row) -> Row:
        """As stored. Raises `RecordExists`, `RecordRefused`."""
        document = self._sendable(row)
        if row[self._table.key_position] is None:
            self._insert_with_new_key(document)
        else:
            self._insert(document, row[self._table.key_position])
            if self._table.generated:
                pass_key(self._database, self._table, row[self._table.key_position])
        return row_of(self._table.fields, document)

    def _sendable(self, row: Row) -> Document:
        told = unfit(self._table, row)
        if told is not None:
            raise RecordRefused(told)
        document = document_of(self._table, row)
        for field, value in zip(self._table.fields, row, strict=True):
            if field.stamped and value is None:
                document[field.name] = now()
        told = unsendable(document)
        if told is not None:
            raise RecordRefused(told)
        return document

    def _insert(self, document: Document, key: Value) -> None:
        try:
            self._documents.insert_one(dict(document))  # the driver adds an _id to what it is given
        except DuplicateKeyError as error:
            if self._documents.find_one(self._by_key(key), {"_id": 1}) is not None:
                raise RecordExists(f"There is a record with the key {key!r} already.") from error
            raise self._refused(error) from error
        except WriteError as error:
            raise self._refused(error) from error

    def _insert_with_new_key(self, document: Document) -> None:
        """Others may have brought keys of their own since the counter was looked at."""
        for _ in range(GIVEN_TRIES):
            document[self._table.key] = next_key(self._database, self._documents, self._table)
            try:
                self._insert(document, int(document[self._table.key]))
            except RecordExists:
                pass_key(self._database, self._table, highest_key(self._documents, self._table.key))
                continue
            return
        raise TargetBusy(f"Others insert into {self._table.name!r} with keys of their own all the time.")

    def _refused(self, error: OperationFailure) -> Exception:
        if not refuses(error.code):
            return error
        return RecordRefused(f"The database refused: {words_of(error, self._address)}")

    def change(self, key: Value, decide: Decide, seconds: float) -> tuple[Row | None, Row | None]:
        """Decide on what is there, and write only while it is still that; anew with what others made of it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = self._documents.find_one(self._by_key(key))
            before = None if found is None else row_of(self._table.fields, found)
            after = decide(before)
            if found is None or before is None:
                if after is None:
                    return None, None
                try:
                    return None, self.insert(after)
                except RecordExists:
                    continue
            if after is None:
                if self._documents.delete_one(self._still(found)).deleted_count:
                    return before, None
            else:
                stored = self._updated(found, before, after)
                if stored is not None:
                    return before, stored
            time.sleep(random.uniform(0, 0.005))  # noqa: S311  no secret depends on it
        raise TargetBusy(f"Others change the record {key!r} all the time.")

    def _still(self, found: Document) -> Document:
        """That the document has these very values in all fields. An array is compared as a value: written plainly it
        would also be found inside another array."""
        conditions: list[Document] = [{"_id": {"$eq": found["_id"]}}]
        for name in self._table.names:
            value: Any = found.get(name)
            if isinstance(value, list):
                conditions.append({"$expr": {"$eq": [f"${name}", {"$literal": value}]}})
            else:
                conditions.append({name: {"$eq": value}})
        return {"$and": conditions}

    def _updated(self, found: Document, before: Row, after: Row) -> Row | None:
        """What is stored then; None when somebody else has been there first."""
        kept = tuple(
            old if field.stamped and new is None else new
            for field, old, new in zip(self._table.fields, before, after, strict=True)
        )
        document = self._sendable(kept)
        for field, value in zip(self._table.fields, kept, strict=True):
            if field.stamped and value is None:
                document[field.name] = None
        settings = {name: value for name, value in document.items() if name != self._table.key}
        if not settings:
            return before
        try:
            matched = self._documents.update_one(self._still(found), {"$set": settings}).matched_count
        except (DuplicateKeyError, WriteError) as error:
            raise self._refused(error) from error
        return row_of(self._table.fields, document) if matched else None

    def delete(self, keys: Sequence[Value]) -> int:
        gone = 0
        given = [into(self._key, key) for key in keys if key is not None]
        for begin in range(0, len(given), AT_ONCE):
            some = given[begin : begin + AT_ONCE]
            gone += self._documents.delete_many({self._table.key: {"$in": some}}).deleted_count
        return gone
