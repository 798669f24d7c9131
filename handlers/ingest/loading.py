"""Pages into a collection: read, write, remember how far; rejected records are kept with their reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from engines.errors import SourceFailed, TooManyRejected
from engines.records.base import RecordTable, RecordWriter, Written
from engines.records.fields import Row
from engines.run import Run
from handlers.collections.reading import ReadPage, RecordReader
from handlers.ingest.documents import Raw
from handlers.ingest.mapping import FieldMapping
from handlers.ingest.marks import HighWater
from handlers.ingest.pages import Page, Pages
from handlers.ingest.paging import SourcePages
from handlers.ingest.tally import Tally
from handlers.supplies import Bookmarks, Rejected

GROUP = 5000
"""Rows of one transaction, about: whole pages that had come already."""
LONGEST_KEPT = 64 * 1024
STAGE = "ingesting"
KEYLESS = "The record comes without its key, so it would be another one each time."
NO_FIELD = "The collection has no such field."
Commit = Literal["page", "run"]
Reasons = tuple[Mapping[str, str], ...]


@dataclass(slots=True)
class _Group:
    """Rows of one transaction, what of their pages is none, and where to go on after it."""

    rows: list[Row] = field(default_factory=list)
    raws: list[Raw] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    """Page and position of each row."""
    rejected: list[tuple[int, int, Raw, Reasons]] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    pages: int = 0
    fetched: int = 0
    requests: int = 0
    total: int | None = None
    after: dict[str, Any] | None = None
    failure: SourceFailed | None = None
    """What came instead of the page behind it."""


@dataclass(slots=True)
class Loading:
    """One attempt at loading one source into one collection."""

    run: Run
    reader: RecordReader
    mapping: FieldMapping
    bookmarks: Bookmarks
    commit: Commit
    max_rejected: int
    refuse_unknown: bool
    tally: Tally
    mark: HighWater
    digest: str
    """Of the source: what is kept is of use for the same one only."""
    group: int = GROUP
    _asked: int = 0
    """Requests that were counted."""

    def load(self, pages: Pages, table: RecordTable) -> None:
        """All of it. Raises `TooManyRejected`, `SourceFailed`, `SourceUnavailable`, `Stopped` and what engines do."""
        whole = self.commit == "run"
        with table.writing(self.run, whole=whole) as writer:
            self._write_all(pages, writer)
            if isinstance(pages, SourcePages):
                self._look_again(pages, writer)
            self.run.stop.check()
            written = writer.finish()
        if whole:
            self.tally.write(written)
        self.tally.requests += pages.requests - self._asked
        self._keep(None, pages.total, (), over=True)

    def _write_all(self, pages: Pages, writer: RecordWriter, *, missing_only: bool = False) -> None:
        """One group is written while the next one is read."""
        before = self.tally.pages if missing_only else 0
        with ThreadPoolExecutor(1, "flexdb-ingest") as reading:
            try:
                coming = reading.submit(self._next_group, pages, before)
                while (group := coming.result()) is not None:
                    if group.failure is None:
                        coming = reading.submit(self._next_group, pages, before)
                    self._take(group, writer, missing_only=missing_only)
                    if group.failure is not None:
                        raise group.failure
            except BaseException:
                pages.close()  # or it would be waited for
                raise

    def _take(self, group: _Group, writer: RecordWriter, *, missing_only: bool) -> None:
        if missing_only:
            self._leave_out_seen(group)
        else:
            self.tally.pages += group.pages
            self.tally.fetched += group.fetched
            self.tally.miss(group.unknown)
        rejected = []
        for page, position, raw, reasons in group.rejected:
            self.tally.see_rejected(bytes(raw))
            rejected.append(self._rejected(page, position, raw, reasons))
        rejected += self._write(group, writer, missing_only=missing_only)
        self.tally.requests += group.requests - self._asked
        self._asked = group.requests
        self._keep(group.after, group.total, rejected)
        done, total = self.tally.fetched, group.total
        self.run.progress(STAGE, done, None if total is None else max(total, done), "records")
        if self.tally.rejected > self.max_rejected:
            raise self._too_many()

    def _leave_out_seen(self, group: _Group) -> None:
        unseen = [at for at, row in enumerate(group.rows) if self.tally.unseen(row[self._key])]
        group.rows = [group.rows[at] for at in unseen]
        group.raws = [group.raws[at] for at in unseen]
        group.places = [group.places[at] for at in unseen]
        group.rejected = [one for one in group.rejected if self.tally.unseen(bytes(one[2]))]

    def _look_again(self, pages: SourcePages, writer: RecordWriter) -> None:
        """Records that moved from page to page while these were read were perhaps passed over: read the last pages
        once more when there are more of them now, else all of them, and write what was not seen."""
        if not self._moved(pages):
            return
        tail = (pages.told.least or 0) // pages.size if pages.size else 0
        if tail and pages.told.changed and not pages.told.shrank:
            pages.again(tail)
            self._write_all(pages, writer, missing_only=True)
        if self._moved(pages):
            pages.again(0)
            self._write_all(pages, writer, missing_only=True)

    def _moved(self, pages: SourcePages) -> bool:
        """Whether something speaks for it. Records that went while as many came leave no trace."""
        distinct, total = self.tally.distinct, pages.told.last
        if pages.told.shrank:
            return True
        if total is None or distinct is None or distinct >= total:
            return False
        return pages.told.changed or self.tally.duplicates > 0

    # ------------------------------------------------------------ reading, in a thread of its own

    def _next_group(self, pages: Pages, before: int) -> _Group | None:
        """Whole pages, as many as have come, up to about `group` records; at least one. None after the last."""
        page = pages.next()
        if page is None:
            return None
        group = _Group()
        self._read(page, group, before)
        try:
            while group.fetched < self.group and pages.ready() and (page := pages.next()) is not None:
                self._read(page, group, before)
        except SourceFailed as error:  # what came before it is written first
            group.failure = error
        group.requests, group.total, group.after = pages.requests, pages.total, pages.kept()
        return group

    def _read(self, page: Page, group: _Group, before: int) -> None:
        records, number = page.records, page.number + before
        items = [self.mapping.applied(item) for item in records.items] if self.mapping else records.items
        broken = records.broken
        at = [place for place in range(len(items)) if place not in broken] if broken else range(len(items))
        read = self.reader.read([items[place] for place in at] if broken else items)
        refused: dict[int, Reasons] = {
            at[place]: tuple({"pointer": fault.pointer, "detail": fault.detail} for fault in reasons)
            for place, _, reasons in read.rejected
        }
        refused |= {place: ({"pointer": "", "detail": why},) for place, why in broken.items()}
        if self.reader.collection.table.generated:
            keyless: Reasons = ({"pointer": f"/{self.reader.collection.table.key}", "detail": KEYLESS},)
            pairs = zip(read.rows, read.positions, strict=True)
            refused |= {at[place]: keyless for row, place in pairs if row[self._key] is None}
        if read.unknown and self.refuse_unknown:
            refused |= self._unknown(items, [at[place] for place in read.positions])
        self._sort(page, number, items, read, at, refused, group)
        group.unknown.update(read.unknown)
        group.pages += 1
        group.fetched += len(items)

    def _sort(
        self,
        page: Page,
        number: int,
        items: Sequence[Raw],
        read: ReadPage,
        at: Sequence[int],
        refused: Mapping[int, Reasons],
        group: _Group,
    ) -> None:
        if refused:
            left = [index for index, position in enumerate(read.positions) if at[position] not in refused]
            group.rows += [read.rows[index] for index in left]
            places = [at[read.positions[index]] for index in left]
            group.raws += [items[place] for place in places]
        else:
            group.rows += read.rows
            places = list(at)
            group.raws += items
        group.places += [(number, page.first + place) for place in places]
        for place in sorted(refused):
            group.rejected.append((number, page.first + place, items[place], refused[place]))

    def _unknown(self, items: Sequence[Raw], places: Sequence[int]) -> dict[int, Reasons]:
        found: dict[int, Reasons] = {}
        for place in places:
            if names := self.reader.read([items[place]]).unknown:
                found[place] = tuple({"pointer": f"/{name}", "detail": NO_FIELD} for name in names)
        return found

    @property
    def _key(self) -> int:
        return self.reader.collection.table.key_position

    # ------------------------------------------------------------ writing

    def _rejected(self, page: int, position: int, raw: Raw, reasons: Reasons) -> Rejected:
        self.tally.reject(reasons)
        text = bytes(memoryview(raw)[:LONGEST_KEPT]).decode("utf-8", "replace")
        return Rejected(page, position, text, reasons)

    def _write(self, group: _Group, writer: RecordWriter, *, missing_only: bool) -> list[Rejected]:
        """What the database refused of it."""
        if not group.rows:
            return []
        counted = not missing_only or self.tally.knows_all
        new = self.tally.see(group.rows, self._key) if counted else 0
        written = writer.write(group.rows)
        self.mark.rise(group.rows)
        if self.commit == "page" and counted:
            self.tally.write(written)
            if new < len(group.rows):
                self.tally.again += self._again(group, written, new)
        elif self.commit == "page":  # an earlier attempt may have counted those that were there
            self.tally.inserted += written.inserted
            self.tally.before += written.inserted
        return [
            self._rejected(*group.places[one.index], group.raws[one.index], ({"pointer": "", "detail": one.reason},))
            for one in written.refused
        ]

    def _again(self, group: _Group, written: Written, new: int) -> int:
        """How many of the group's records another transaction of this run had written before."""
        refused = {refusal.index for refusal in written.refused}
        keys = {row[self._key] for index, row in enumerate(group.rows) if index not in refused}
        return max(0, len(keys) - new)

    def _keep(
        self, after: dict[str, Any] | None, total: int | None, rejected: Sequence[Rejected], *, over: bool = False
    ) -> None:
        state: dict[str, Any] = {"source": self.digest, "over": over, "commit": self.commit}
        if over or self.commit == "page":
            state |= {"tally": self.tally.kept(), "mark": self.mark.kept(), "pages": after, "total": total}
        self.bookmarks.keep(self.run.job_id, self.run.token, job_key(self.run.job_id), state, rejected)

    def _too_many(self) -> TooManyRejected:
        stays = "what was written before stays" if self.commit == "page" else "nothing was written"
        return TooManyRejected(
            f"{self.tally.rejected} records were rejected, {self.max_rejected} are allowed; {stays}.",
            details={
                "rejected": self.tally.rejected,
                "reasons": list(self.tally.shown_reasons()),
                "records_processed": self.tally.processed,
            },
        )


def job_key(job_id: str) -> str:
    """Under which a job's own bookmark is kept."""
    return f"job:{job_id}"
