"""Pages asked for over HTTP, fetched ahead while others work on them, and guarded against sources that go astray."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from engines.errors import SourceFailed
from engines.run import StopToken
from handlers.ingest.documents import Records, Steps, records_in, steps_of
from handlers.ingest.facts import Facts
from handlers.ingest.guards import Seen, key_hash
from handlers.ingest.pages import Page, Pages, Told
from handlers.ingest.paginators import (
    Alone,
    Answer,
    Chained,
    Numbered,
    Way,
    described,
    first_url,
    looks_cut,
    way_found_again,
    way_kept,
    way_on,
)
from handlers.sources import Source
from handlers.supplies import Fetched, FetchSession

WAITING = 0.25
"""Seconds after which a wait looks at the wish to stop."""
CIRCLE = "Its paging goes in a circle: name the right paginator with `source.paginator`, or mend the source."
AHEAD_BYTES = 32 * 1024 * 1024
MOST_AHEAD = 64
_OTHER_FORMATS = {
    "text/csv": "csv",
    "application/csv": "csv",
    "text/tab-separated-values": "csv",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/x-jsonlines": "ndjson",
}
MOST_EMPTY = 100
"""Pages without records in a row, of a source that always names another."""


@dataclass(slots=True)
class _Asked:
    index: int
    url: str
    answer: Future[Fetched]


@dataclass(slots=True)
class SourcePages:
    """Pages over HTTP. The first answer decides how it goes on; what could be asked at once is asked at once."""

    session: FetchSession
    source: Source
    base: str
    """The URL without what paging adds to it."""
    stop: StopToken
    other: Callable[[str, Iterable[bytes]], Pages]
    """Makes pages of an answer in another format: csv, ndjson."""
    way: Way | None = None
    steps: Steps | None = None
    index: int = 0
    """Of the page that is handed out next, from 0."""
    total: int | None = None
    notes: list[str] = field(default_factory=list)
    requests: int = 0
    told: Told = field(default_factory=Told)
    body_bytes: int = 0
    """Of the largest answer so far."""
    mark: str | None = None
    """Of the next page, where pages are chained."""
    ended: bool = False
    _inside: Pages | None = None
    """Of the one answer, when that is no JSON."""
    _closed: bool = False
    _ahead: deque[_Asked] = field(default_factory=deque)
    _records: int = 0
    _pages: Seen = field(default_factory=lambda: Seen(1_000_000))
    _previous: int = 0
    _marks: Seen = field(default_factory=lambda: Seen(1_000_000))
    _empty: int = 0
    _url: str = ""
    """Of the answer handed out last; relative links are meant from here."""

    def __post_init__(self) -> None:
        if self.source.request.records is not None and self.steps is None:
            self.steps = steps_of(self.source.request.records)

    # ------------------------------------------------------------ handing out

    def next(self) -> Page | None:
        if self._inside is not None:
            return self._inside.next()
        if self.ended:
            return None
        while (page := self._next()) is not None:
            if page.records.items or page.number == 1:
                return page
        return None

    def _next(self) -> Page | None:
        """As `next`; pages without records too."""
        self.stop.check()
        if not self.ended:
            self._ask()
        if not self._ahead:
            self.ended = True
            return None
        asked = self._ahead.popleft()
        try:
            return self._handed_out(asked, self._answered(asked))
        except SourceFailed as error:
            if not self._only_a_question(asked.index, error):
                raise
            self._end()
            return None

    def ready(self) -> bool:
        if self._inside is not None:
            return self._inside.ready()
        return not self.ended and bool(self._ahead) and self._ahead[0].answer.done()

    def kept(self) -> dict[str, Any] | None:
        if self.way is None or self.ended or isinstance(self.way, Alone):
            return None
        mark = self.mark
        if isinstance(self.way, Chained) and mark is not None:
            mark = self.way.kept(self.base, mark)
        return {
            "way": way_kept(self.way),
            "steps": list(self.steps or ()),
            "index": self.index,
            "mark": mark,
            "url": self.source.request.url and self._url.partition("?")[0],
            "told": asdict(self.told),
            "records": self._records,
            "previous": self._previous,
        }

    def go_on(self, kept: dict[str, Any]) -> None:
        """Begin behind the pages of an earlier attempt."""
        self.way, self.steps, self.index = way_found_again(kept["way"]), tuple(kept["steps"]), kept["index"]
        self.told = Told(**kept["told"])
        self.total, self._records, self._previous = self.told.last, kept["records"], kept["previous"]
        self._url = kept["url"] or self.base
        if isinstance(self.way, Chained) and kept["mark"] is not None:
            self.mark = self.way.found_again(self.base, kept["mark"])

    def again(self, index: int) -> None:
        """Begin once more at that page (numbered ones), or at the first."""
        self._drop()
        self.index = index if isinstance(self.way, Numbered) else 0
        self.mark, self.ended, self._empty, self._records, self._previous = None, False, 0, 0, 0
        self._pages, self._marks = Seen(1_000_000), Seen(1_000_000)
        if isinstance(self.way, Numbered):
            self._records = self.index * self.way.size
        else:
            self.way = None

    def close(self) -> None:
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        with suppress(IndexError):  # taken one by one: `close` comes while another thread may be at work
            while True:
                self._ahead.popleft().answer.cancel()

    # ------------------------------------------------------------ asking

    def _ask(self) -> None:
        """Have as much under way as is known to be there and fits."""
        if self.way is None:
            if not self._ahead:
                self._get(0, first_url(self.base, self.source.request.paginator))
        elif isinstance(self.way, Numbered):
            self._ask_numbered(self.way)
        elif isinstance(self.way, Chained) and not self._ahead and self.mark is not None:
            self._get(self.index, self.way.url(self.base, self._url, self.mark))

    def _ask_numbered(self, way: Numbered) -> None:
        expected = way.expected(self.total) or 0
        window = max(2, min(MOST_AHEAD, AHEAD_BYTES // max(self.body_bytes, 1)))
        index = self._ahead[-1].index + 1 if self._ahead else self.index
        while len(self._ahead) < window and (index < expected or not self._ahead):
            self._get(index, way.url(first_url(self.base, self.source.request.paginator), index))
            index += 1

    def _get(self, index: int, url: str) -> None:
        most = self.source.request.paginator.max_pages
        if index >= most:
            raise SourceFailed(
                f"{self.source.shown} has more than {most} pages, or no end.",
                hint="When it really has, raise `source.paginator.max_pages`; else name the right paginator.",
            )
        self.requests += 1
        self._ahead.append(_Asked(index, url, self.session.get(url)))

    def _answered(self, asked: _Asked) -> Fetched:
        while not asked.answer.done():
            wait((asked.answer,), timeout=WAITING)
            self.stop.check()
            if self._closed:
                raise CancelledError
        return asked.answer.result()

    def _only_a_question(self, index: int, error: SourceFailed) -> bool:
        """Whether all that was promised has come, so that this page was only asked for to see whether there is one."""
        if not isinstance(self.way, Numbered) or not index:
            return False
        if self.total is not None:
            return self._records >= self.total
        return self.way.expected() is None and error.details.get("http_status") in (404, 416)

    # ------------------------------------------------------------ looking at an answer

    def _handed_out(self, asked: _Asked, fetched: Fetched) -> Page | None:
        kind = fetched.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            raise SourceFailed(f"{self.source.shown} answers HTML where records were expected.")
        if self.way is None and (format := _OTHER_FORMATS.get(kind)) and self.source.request.format == "auto":
            self.way, self._inside = Alone(), self.other(format, (fetched.body,))
            return self._inside.next()
        self.steps, records = records_in(fetched.body, self.steps, self.source.shown)
        answer = Answer(asked.url, fetched.url, fetched.headers, fetched.body, len(records.items))
        self.body_bytes = max(self.body_bytes, len(fetched.body))
        if self.way is None:
            facts = Facts.of(fetched.body, self.steps)
            asked_for = self.source.request.paginator
            self.way = way_on(asked_for, answer, facts, self.source.shown)
            if note := looks_cut(self.way, answer, asked_for):
                self.notes.append(note)
        if records.items and self._came_before(asked, records, answer):
            self._end()
            return None
        self._url, self.index = fetched.url, asked.index + 1
        self._records += len(records.items)
        self._hear(answer)
        self._go_on_from(answer)
        if not self.ended:
            self._ask()
        return Page(self.index, records)

    def _hear(self, answer: Answer) -> None:
        if self.way is not None and not isinstance(self.way, Alone):
            self.told.hear(answer.number(self.way.total_at))
            self.total = self.told.last

    def _came_before(self, asked: _Asked, records: Records, answer: Answer) -> bool:
        """Whether this page is one that was handed out already. Raises `SourceFailed` when records are missing."""
        digest = key_hash(records.digest)
        twice, clamped = not self._pages.add(digest), digest == self._previous
        page, self._previous = asked.index + 1, digest
        if not (twice or clamped):
            return False
        complete = self.total is not None and self._records >= self.total
        way = self.way
        if isinstance(way, Numbered) and not complete:
            expected = way.expected(self.total)
            more = way.more(answer)
            complete = more is not True and clamped and page > 2 and (expected is None or page > expected)
        if not complete:
            raise SourceFailed(
                f"{self.source.shown} answers with the same records again: page {page} is one that came before.",
                hint=self._why_again(page),
            )
        self.notes.append(f"The source answered page {page} with the records of the page before, which ended it.")
        return True

    def _why_again(self, page: int) -> str:
        way = self.way
        if isinstance(way, Numbered) and page == 2:
            return (
                f"It seems not to know the parameter {way.parameter!r}: name the right one with `source.paginator`, "
                "or the paginator none when one page is all there is."
            )
        return CIRCLE

    def _go_on_from(self, answer: Answer) -> None:
        way = self.way
        if isinstance(way, Numbered):
            if self._last_numbered(way, answer):
                self._end()
        elif isinstance(way, Chained):
            self._next_mark(way, answer)
        else:
            self._end()

    def _last_numbered(self, way: Numbered, answer: Answer) -> bool:
        """Whether this was the last page. Where numbers may lie, one page more is asked for."""
        self._empty = 0 if answer.count else self._empty + 1
        expected = way.expected(self.total)
        if not answer.count:  # sources that leave records out of full pages have empty ones in the middle too
            return expected is None or self.index >= expected or self._empty >= MOST_EMPTY
        if (said := way.more(answer)) is not None and self.total is None:
            return not said
        if expected is None:
            return False
        if way.pages_at is not None and self.total is None:
            expected = answer.number(way.pages_at) or expected
            if expected != way.pages:
                self.way = replace(way, pages=expected)
            return self.index >= expected
        return self.index >= expected and answer.count < way.size

    def _next_mark(self, way: Chained, answer: Answer) -> None:
        self.mark = way.mark(answer)
        self._marks.add(key_hash(answer.asked))
        self._empty = 0 if answer.count else self._empty + 1
        if self.mark is None:
            self._end()
            return
        url = way.url(self.base, self._url, self.mark)
        circle = key_hash(url) in self._marks
        if circle and not (self.total is not None and self._records >= self.total):
            raise SourceFailed(
                f"{self.source.shown} leads from page {self.index} to a page that was read before.",
                hint=CIRCLE,
            )
        if self._empty >= MOST_EMPTY:
            raise SourceFailed(f"{self.source.shown} answers {MOST_EMPTY} empty pages in a row and names ever more.")
        if circle:
            self._end()

    def _end(self) -> None:
        self.ended = True
        self._drop()

    @property
    def size(self) -> int | None:
        """Records in a full page, where pages are numbered."""
        return self.way.size if isinstance(self.way, Numbered) else None

    @property
    def described(self) -> str:
        return "" if self.way is None else described(self.way)
