"""Upserts of many records, each document by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from engines.command import redact
from engines.mongodb.connection import Document, Opened
from engines.mongodb.records.place import DUPLICATE, pass_key, refuses
from engines.mongodb.records.values import document_of, now, unfit, unsendable
from engines.records.base import RecordWriter, Refusal, Written
from engines.records.fields import Row, Table
from engines.run import Run

TRIES = 3
AT_ONCE = 1000

Wanted = tuple[int, UpdateOne]
"""Place among the rows, and what is to be done."""


class PieceWriter(RecordWriter):
    """MongoDB leaves a document alone to which nothing new is set, and tells how many those were."""

    def __init__(self, found: Opened, documents: Collection[Document], table: Table, run: Run) -> None:
        self._database, self._documents, self._table = found.database, documents, table
        self._address, self._run = found.address, run
        self._session = found.session()

    def write(self, rows: Sequence[Row]) -> Written:
        self._run.stop.check()
        refused: dict[int, str] = {}
        wanted = self._wanted(rows, refused)
        inserted = updated = there = 0
        for begin in range(0, len(wanted), AT_ONCE):
            counts = self._done(wanted[begin : begin + AT_ONCE], refused)
            inserted, updated, there = inserted + counts[0], updated + counts[1], there + counts[2]
        if inserted and self._table.generated:
            position = self._table.key_position
            pass_key(self._database, self._table, max(row[position] for row in rows if row[position] is not None))
        told = tuple(Refusal(place, why) for place, why in sorted(refused.items()))
        return Written(inserted, updated, there - updated, told)

    def _wanted(self, rows: Sequence[Row], refused: dict[int, str]) -> list[Wanted]:
        position, latest = self._table.key_position, dict[Any, tuple[int, Row]]()
        for place, row in enumerate(rows):
            if row[position] is None:
                refused[place] = "The record has no key."
            else:
                latest[row[position]] = (place, row)
        found, moment = [], now()
        for _, (place, row) in sorted(latest.items()):
            why = unfit(self._table, row)
            document = {} if why else document_of(self._table, row)
            why = why or unsendable(document)
            if why is not None:
                refused[place] = why
            else:
                found.append((place, self._upsert(document, moment)))
        return found

    def _upsert(self, document: Document, moment: str) -> UpdateOne:
        key = document.pop(self._table.key)
        stamped = {field.name for field in self._table.fields if field.stamped and document.get(field.name) is None}
        change: dict[str, Document] = {"$set": {}, "$setOnInsert": dict.fromkeys(stamped, moment)}
        change["$set"] = {name: value for name, value in document.items() if name not in stamped}
        if not change["$set"] and not stamped:
            change["$setOnInsert"] = {self._table.key: key}
        return UpdateOne({self._table.key: key}, {word: what for word, what in change.items() if what}, upsert=True)

    def _done(self, wanted: list[Wanted], refused: dict[int, str]) -> tuple[int, int, int]:
        """How many were inserted, updated, there before. One that others insert meanwhile is updated the next time."""
        inserted = updated = there = 0
        for tries in range(TRIES):
            self._run.stop.check()
            if not wanted:
                break
            again: list[Wanted] = []
            changes = [one for _, one in wanted]
            try:
                counts: Any = self._documents.bulk_write(changes, ordered=False, session=self._session).bulk_api_result
            except BulkWriteError as error:
                counts = error.details
                again = self._failed(error, wanted, refused, last=tries == TRIES - 1)
            inserted, updated, there = (
                inserted + counts["nUpserted"],
                updated + counts["nModified"],
                there + counts["nMatched"],
            )
            wanted = again
        return inserted, updated, there

    def _failed(
        self, error: BulkWriteError, wanted: list[Wanted], refused: dict[int, str], *, last: bool
    ) -> list[Wanted]:
        """What is to be tried again. Raises what is not about a row."""
        again = []
        details = error.details or {}
        if details.get("writeConcernErrors"):
            raise error
        for told in details.get("writeErrors", []):
            place, what = wanted[told["index"]]
            if not refuses(told.get("code")):
                raise error
            if told.get("code") == DUPLICATE and not last:
                again.append((place, what))
            else:
                refused[place] = redact(str(told.get("errmsg", "refused")), self._address.secrets)[:300]
        return again

    def finish(self) -> Written:
        return Written()
