"""Ingest: read all records of a source, over as many pages as it takes, and upsert them into a collection by key."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any, Literal

from pydantic import Field

from engines.errors import FlexError
from engines.records.base import RecordEngine
from engines.run import Run
from handlers.base import Claim, Fault, Handler, Outcome, Request, Result
from handlers.collections import Collection, collection_key
from handlers.collections.reading import RecordInvalid, RecordReader
from handlers.incoming import READ_ONCE, incoming_key
from handlers.ingest.documents import steps_of
from handlers.ingest.files import FilePages, Upload, format_by_name, plain_blocks, records_of
from handlers.ingest.loading import GROUP, Loading, job_key
from handlers.ingest.mapping import FieldMapping
from handlers.ingest.marks import HighWater, bookmark_key
from handlers.ingest.pages import Pages
from handlers.ingest.paging import SourcePages
from handlers.ingest.tally import Tally
from handlers.sources import Source, SourceField, resolved, with_query
from handlers.supplies import Supplies


class IngestRequest(Request):
    collection: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Name of a collection.")
    source: SourceField | None = Field(
        default=None, description="A URL, a feed's name, or an object; the collection's own source when left out."
    )
    commit: Literal["page", "run"] = Field(
        default="page", description="One transaction for the pages that have come, or one for the whole run."
    )
    max_rejected: int = Field(default=10_000, ge=0, le=10_000_000, description="More than these end the job as failed.")
    unknown_fields: Literal["tell", "reject"] = Field(
        default="tell", description="What to do with records that have fields which the collection has not."
    )
    full: bool = Field(default=False, description="Begin an incremental source at its start again.")


class IngestResult(Result):
    status: Literal["success"] = "success"
    collection: str
    source: str
    paginator: str
    """Which way the pages went."""
    pages: int
    records_processed: int
    """Records that are in the collection now."""
    fetched: int
    """Records that came, each time one came."""
    inserted: int
    updated: int
    unchanged: int
    rejected: int
    reasons: tuple[dict[str, Any], ...]
    """`pointer`, `detail`, `count`; the most frequent 20."""
    duplicates: int
    """Records that came more than once; the last one counts."""
    total: int | None
    """Records in all, as the source says."""
    gap: int | None
    """`total` minus the different records that were seen; None when that is not known."""
    drift: dict[str, Any]
    requests: int
    seconds: float
    bookmark: str | None
    """Where the next incremental run begins."""
    notes: tuple[str, ...]


class IngestHandler(Handler[IngestRequest]):
    operation = "ingest"
    request_model = IngestRequest
    result_model = IngestResult
    writes = True

    def __init__(self, supplies: Supplies, *, group: int = GROUP) -> None:
        """`group`: rows of one transaction, about; whole pages."""
        self._supplies = supplies
        self._group = group

    def connection(self, request: IngestRequest) -> str | None:
        try:
            return self._supplies.collections.collection(request.collection).connection
        except FlexError:
            return None

    def claims(self, request: IngestRequest) -> tuple[Claim, ...]:
        return (Claim(collection_key(request.collection), "exclusive"),)

    # ------------------------------------------------------------ faults

    def faults(self, request: IngestRequest) -> list[Fault]:
        try:
            collection = self._supplies.collections.collection(request.collection)
        except FlexError as error:
            return [Fault("/collection", f"{error.message} {error.hint}")]
        try:
            source = resolved(request.source, collection, self._supplies.feeds)
        except FlexError as error:
            return [Fault("/source", f"{error.message} {error.hint}")]
        return [*self._source_faults(source, collection), *self._engine_faults(request, collection)]

    def _source_faults(self, source: Source, collection: Collection) -> list[Fault]:
        faults = []
        asked = source.request
        if source.url is not None and (reason := self._supplies.fetcher.refuse(source.url)):
            faults.append(Fault("/source/url" if asked.url else "/source", reason))
        if asked.upload is not None:
            try:
                self._supplies.stores.store(asked.storage)
            except FlexError as error:
                faults.append(Fault("/source/storage", f"{error.message} {error.hint}"))
            if asked.incremental is not None:
                faults.append(Fault("/source/incremental", "An uploaded file takes no parameter; leave it out."))
        names = set(collection.table.names)
        if asked.incremental is not None and asked.incremental.field not in names:
            faults.append(
                Fault("/source/incremental/field", f"The collection has no field {asked.incremental.field!r}.")
            )
        missing = sorted(set(asked.fields) - names)
        return faults + [Fault(f"/source/fields/{name}", "The collection has no such field.") for name in missing]

    def _engine_faults(self, request: IngestRequest, collection: Collection) -> list[Fault]:
        try:
            target = self._supplies.connections.target(collection.connection)
            engine = self._supplies.engines.for_target(target, RecordEngine, self.operation)
        except FlexError as error:
            return [Fault("/collection", f"{error.message} {error.hint}")]
        if request.commit == "run" and not engine.writes_whole:
            return [Fault("/commit", f"The engine {target.engine!r} cannot write many pages in one transaction here.")]
        return []

    # ------------------------------------------------------------ the work

    def run(self, request: IngestRequest, run: Run) -> Outcome:
        began = time.monotonic()
        collection = self._supplies.collections.collection(request.collection)
        source = resolved(request.source, collection, self._supplies.feeds)
        reader = RecordReader(collection)
        earlier = self._earlier(source, request, run)
        loading = self._loading(request, source, reader, run, earlier)
        if earlier is None or not earlier["over"]:
            table = self._supplies.tables.prepared(collection)
            with self._pages(source, collection, request, run) as pages:
                if earlier is not None and not _go_on(pages, earlier):
                    loading = self._loading(request, source, reader, run, None)
                loading.load(pages, table)
                total, way, notes = pages.total, _way(pages, source), tuple(pages.notes)
        else:
            total, way, notes = earlier["total"], "", ()
        self._remember(source, collection, loading, run)
        self._discard(source)
        return Outcome(_result(loading, source, total, way, notes, time.monotonic() - began))

    def _loading(
        self, request: IngestRequest, source: Source, reader: RecordReader, run: Run, earlier: Mapping[str, Any] | None
    ) -> Loading:
        table = reader.collection.table
        return Loading(
            run=run,
            reader=reader,
            mapping=FieldMapping(source.request.fields, table.names),
            bookmarks=self._supplies.bookmarks,
            commit=request.commit,
            max_rejected=request.max_rejected,
            refuse_unknown=request.unknown_fields == "reject",
            tally=Tally() if earlier is None else Tally.found_again(earlier["tally"]),
            mark=self._mark(request, source, reader, earlier),
            digest=source.digest,
            group=self._group,
        )

    def _earlier(self, source: Source, request: IngestRequest, run: Run) -> dict[str, Any] | None:
        """What an earlier attempt of this job has kept, if it is of use."""
        kept = self._supplies.bookmarks.bookmark(job_key(run.job_id)) if run.attempt > 1 else None
        if kept is None or kept["source"] != source.digest or "tally" not in kept:
            return None
        return kept if kept["over"] or kept["pages"] is not None else None

    def _mark(
        self, request: IngestRequest, source: Source, reader: RecordReader, earlier: Mapping[str, Any] | None
    ) -> HighWater:
        asked, table = source.request.incremental, reader.collection.table
        if asked is None:
            return HighWater(None, table)
        kept = None if request.full else self._supplies.bookmarks.bookmark(bookmark_key(reader.collection.name, source))
        text = earlier["mark"] if earlier is not None else (kept or {}).get("mark")
        try:
            value = None if text is None else reader.value_of(asked.field, text)
        except RecordInvalid:  # the field has become another one since: begin at the start
            value = None
        return HighWater(asked, table, value)

    @contextmanager
    def _pages(self, source: Source, collection: Collection, request: IngestRequest, run: Run) -> Iterator[Pages]:
        asked = source.request
        kinds = {field.name: field.kind for field in collection.table.fields}
        kinds |= {path: kinds[name] for name, path in asked.fields.items()}
        steps = None if asked.records is None else steps_of(asked.records)
        if asked.upload is not None:
            with closing(Upload(self._supplies.stores.store(asked.storage), asked.upload, run.stop)) as upload:
                format = upload.format() if asked.format == "auto" else asked.format
                yield FilePages(records_of(upload.blocks(), format, kinds, steps, source.shown), upload.identity)
            return
        url = self._begun(source, collection, request)
        with self._supplies.fetcher.session(source.headers, source.rules, run.stop) as session:
            format = asked.format if asked.format != "auto" else format_by_name(url) or "json"
            if format != "json" or asked.paginator.style == "none":
                pages = FilePages(
                    records_of(plain_blocks(session.blocks(url), source.shown), format, kinds, steps, source.shown)
                )
                pages.requests = 1
                yield pages
                return
            found = SourcePages(
                session,
                source,
                url,
                run.stop,
                lambda other, blocks: FilePages(records_of(blocks, other, kinds, None, source.shown)),
            )
            with closing(found):
                yield found

    def _begun(self, source: Source, collection: Collection, request: IngestRequest) -> str:
        """The URL with the parameter of an incremental source."""
        asked, url = source.request.incremental, source.url or ""
        if asked is None:
            return url
        key = bookmark_key(collection.name, source)
        kept = None if request.full else self._supplies.bookmarks.bookmark(key)
        start = kept["mark"] if kept is not None else asked.start
        return url if start is None else with_query(url, {asked.parameter: start})

    def _remember(self, source: Source, collection: Collection, loading: Loading, run: Run) -> None:
        if source.request.incremental is not None and (mark := loading.mark.next_start()) is not None:
            self._supplies.bookmarks.keep(run.job_id, run.token, bookmark_key(collection.name, source), {"mark": mark})

    def _discard(self, source: Source) -> None:
        """Remove a file that was uploaded for this only. By now another attempt would not want it any more."""
        asked = source.request
        if asked.upload is not None and asked.upload.startswith(READ_ONCE):
            with suppress(FlexError):  # its records are in; the sweep of the storage removes it later
                self._supplies.stores.store(asked.storage).delete(incoming_key(asked.upload))


def _go_on(pages: Pages, earlier: Mapping[str, Any]) -> bool:
    """Begin behind what an earlier attempt has written; False when that cannot be."""
    kept = earlier["pages"]
    if isinstance(pages, SourcePages) and "way" in kept:
        pages.go_on(kept)
        return True
    return isinstance(pages, FilePages) and "identity" in kept and pages.go_on(kept)


def _way(pages: Pages, source: Source) -> str:
    if isinstance(pages, SourcePages):
        return pages.described
    return "upload" if source.request.upload is not None else "file"


def _result(
    loading: Loading, source: Source, total: int | None, way: str, notes: tuple[str, ...], seconds: float
) -> IngestResult:
    tally = loading.tally
    distinct = tally.distinct
    return IngestResult(
        collection=loading.reader.collection.name,
        source=source.shown,
        paginator=way,
        pages=tally.pages,
        records_processed=tally.processed,
        fetched=tally.fetched,
        inserted=tally.inserted,
        updated=tally.updated,
        unchanged=tally.unchanged,
        rejected=tally.rejected,
        reasons=tally.shown_reasons(),
        duplicates=tally.duplicates,
        total=total,
        gap=None if total is None or distinct is None else total - distinct,
        drift={"unknown_fields": tally.unknown},
        requests=tally.requests,
        seconds=round(seconds, 3),
        bookmark=loading.mark.next_start(),
        notes=notes,
    )
