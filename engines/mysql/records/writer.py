"""Upserts of many rows, in pieces or whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import pymysql

from engines.errors import RecordRefused
from engines.mysql.address import Address
from engines.mysql.records.merging import Merging, MovedError, Placed
from engines.mysql.records.sessions import DEADLOCK, LOCK_TIMEOUT, TRIES, reason, refuses, wait_a_little
from engines.mysql.records.shape import Shape
from engines.mysql.records.values import unfit
from engines.mysql.session import Session, number_of
from engines.records.base import RecordWriter, Refusal, Written
from engines.records.fields import Row
from engines.run import Run

T = TypeVar("T")


class _Writing:
    """What both writers do in their session."""

    def __init__(self, opened: Session, shape: Shape, address: Address, run: Run) -> None:
        self._opened, self._shape, self._address, self._run = opened, shape, address, run
        self.merging = Merging(opened, shape)
        self.merging.make_stage()

    def words(self, error: Exception) -> str:
        return reason(error, self._address)

    def placed(self, rows: Sequence[Row], refused: dict[int, str], first: int = 0) -> list[Placed]:
        """Of rows with one key the last, in the order of keys, without those that the database would not take."""
        position = self._shape.table.key_position
        latest: dict[object, Placed] = {}
        for place, row in enumerate(rows, first):
            if row[position] is None:
                refused[place] = "The record has no key."
            else:
                latest[row[position]] = (place, row)
        found = []
        for _, (place, row) in sorted(latest.items()):
            told = unfit(self._shape, row)
            if told is None:
                found.append((place, row))
            else:
                refused[place] = told
        return found

    def in_transaction(self, work: Callable[[], T]) -> T:
        """Again when a deadlock, or somebody's lock, ended it."""
        for tries in range(TRIES):
            self._run.stop.check()
            try:
                self._opened.begin()
                done = work()
                self._opened.commit()
            except (pymysql.Error, MovedError) as error:
                with suppress(pymysql.Error, OSError):
                    self._opened.rollback()
                again = isinstance(error, MovedError) or number_of(error) in {DEADLOCK, LOCK_TIMEOUT}
                if not again or tries == TRIES - 1:
                    raise
                wait_a_little(tries)
            except BaseException:
                with suppress(pymysql.Error, OSError):
                    self._opened.rollback()
                raise
            else:
                return done
        raise AssertionError("unreachable: the last try returns or raises")


class PieceWriter(RecordWriter):
    """Each `write` is a transaction."""

    def __init__(self, opened: Session, shape: Shape, address: Address, run: Run) -> None:
        self._writing = _Writing(opened, shape, address, run)
        self._run = run

    def write(self, rows: Sequence[Row]) -> Written:
        self._run.stop.check()
        merging, refused = self._writing.merging, dict[int, str]()
        placed = self._writing.placed(rows, refused)
        if not placed:
            return Written(refused=_told(refused))
        merging.clear()
        for place, why in merging.lay_aside([(number, row) for number, (_, row) in enumerate(placed)]).items():
            refused[placed[place][0]] = why

        def work() -> tuple[Written, dict[int, str]]:
            told: dict[int, str] = {}
            return merging.merge_or_tell(0, len(placed), told, self._writing.words), told

        written, told = self._writing.in_transaction(work)
        refused |= {placed[place][0]: why for place, why in told.items()}
        return Written(written.inserted, written.updated, written.unchanged, _told(refused))

    def finish(self) -> Written:
        return Written()


class WholeWriter(RecordWriter):
    """Everything is laid aside until `finish`. A session that is lost takes that with it, and the writing fails."""

    def __init__(self, opened: Session, shape: Shape, address: Address, run: Run) -> None:
        self._writing = _Writing(opened, shape, address, run)
        self._run = run
        self._many = 0
        self._refused: str | None = None
        self._finished = False

    def write(self, rows: Sequence[Row]) -> Written:
        self._run.stop.check()
        refused: dict[int, str] = {}
        placed = self._writing.placed(rows, refused)
        refused |= self._writing.merging.lay_aside(placed)
        if refused and self._refused is None:
            place = min(refused)
            self._refused = f"Record {self._many + place + 1}: {refused[place]}"
        self._many += len(rows)
        return Written()

    def finish(self) -> Written:
        if self._refused is not None:
            raise RecordRefused(f"{self._refused} Nothing was written.")

        def work() -> Written:
            written = self._writing.merging.merge_whole()
            self._run.confirm()
            return written

        try:
            return self._writing.in_transaction(work)
        except pymysql.Error as error:
            if refuses(error):
                raise RecordRefused(
                    f"The database refused: {self._writing.words(error)}; nothing was written."
                ) from error
            raise


def _told(refused: dict[int, str]) -> tuple[Refusal, ...]:
    return tuple(Refusal(index, why) for index, why in sorted(refused.items()))
