"""From one page to the next: which way a source goes, named or found from its first answer."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from engines.errors import SourceFailed
from handlers.ingest.documents import Steps, dig, first_byte, plain, pointer_of, steps_of
from handlers.ingest.facts import (
    LAST,
    MORE,
    NEXT_NUMBER,
    NEXT_OFFSET,
    OFFSET,
    PAGE,
    PAGES,
    SIZE,
    TOTAL,
    Fact,
    Facts,
)
from handlers.ingest.links import followed, next_in_header, number_in_query, total_in_headers, with_known, without_known
from handlers.sources import PaginatorRequest, with_query

NAME_ONE = (
    "Name one with `source.paginator`: page, offset, cursor, next or link, with its parameters; "
    "or none when this answer is all there is."
)
_QUERY_PAGE = ("page", "p", "pagenumber", "page_number", "pageno", "page_no", "pageindex", "page[number]", "_page")
_QUERY_SIZE = ("limit", "per_page", "perpage", "pagesize", "page_size", "size", "count", "$top", "_limit", "page[size]")
_QUERY_OFFSET = ("offset", "skip", "$skip", "startat", "start", "_start", "page[offset]")


@dataclass(frozen=True, slots=True)
class Answer:
    """What is looked at to go on: an answer without its records."""

    asked: str
    """The URL that was asked."""
    url: str
    """Where the answer came from."""
    headers: Mapping[str, str]
    body: bytes
    count: int
    """How many records it has."""

    def value(self, steps: Steps) -> Any:
        """The plain value at that place, None for none."""
        if not steps or first_byte(self.body) != b"{":
            return None
        try:
            return plain(dig(self.body, steps))
        except ValueError:
            return None

    def number(self, steps: Steps | None) -> int | None:
        found = None if steps is None else self.value(steps)
        if isinstance(found, str) and found.isdecimal() and len(found) < 16:
            found = int(found)
        return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


@dataclass(frozen=True, slots=True)
class Numbered:
    """Pages that can be asked for in any order."""

    parameter: str
    first: int
    """The parameter's value for the page that came first."""
    step: int
    """By how much it grows from page to page."""
    size: int
    """Records in a full page."""
    total: int | None = None
    """Records in all, as the first page says."""
    total_at: Steps | None = None
    pages: int | None = None
    """Pages in all, when that is what is told."""
    pages_at: Steps | None = None
    more_at: Steps | None = None
    """A member that says whether there are more."""
    more_means: bool = True
    by_count: bool = False
    """It counts records, not pages."""
    kind: ClassVar[str] = "numbered"

    def url(self, base: str, index: int) -> str:
        """Of the page at this index, the first one's is 0."""
        return with_query(base, {self.parameter: self.first + index * self.step})

    def expected(self, total: int | None = None) -> int | None:
        """How many pages there should be; None when nothing was said of it."""
        total = self.total if total is None else total
        if total is not None:
            return max(1, -(-total // self.size))
        return self.pages

    def more(self, answer: Answer) -> bool | None:
        if self.more_at is None:
            return None
        found = answer.value(self.more_at)
        return found is self.more_means if isinstance(found, bool) else None


class Chained(ABC):
    """Pages of which each tells the next."""

    kind: ClassVar[str]

    @abstractmethod
    def mark(self, answer: Answer) -> str | None:
        """What leads to the next page; None after the last one."""

    @abstractmethod
    def url(self, base: str, answer_url: str, mark: str) -> str:
        """The next page's."""

    def kept(self, base: str, mark: str) -> str:
        """The mark without secrets, to be kept; `found_again` undoes it."""
        return mark

    def found_again(self, base: str, kept: str) -> str:
        return kept


@dataclass(frozen=True, slots=True)
class ByCursor(Chained):
    parameter: str
    at: Steps
    more_at: Steps | None = None
    more_means: bool = True
    total_at: Steps | None = None
    kind: ClassVar[str] = "cursor"

    def mark(self, answer: Answer) -> str | None:
        if self.more_at is not None and answer.value(self.more_at) is (not self.more_means):
            return None
        found = answer.value(self.at)
        if found is None or found == "" or isinstance(found, bool) or (found == 0 and not isinstance(found, str)):
            return None  # 0 leads to the beginning: some say with it that nothing follows
        return str(found)

    def url(self, base: str, answer_url: str, mark: str) -> str:
        return with_query(base, {self.parameter: mark})


class _ByLink(Chained):
    def url(self, base: str, answer_url: str, mark: str) -> str:
        return followed(answer_url, mark)

    def kept(self, base: str, mark: str) -> str:
        return without_known(mark, base)

    def found_again(self, base: str, kept: str) -> str:
        return with_known(kept, base)


@dataclass(frozen=True, slots=True)
class ByNext(_ByLink):
    at: Steps
    total_at: Steps | None = None
    kind: ClassVar[str] = "next"

    def mark(self, answer: Answer) -> str | None:
        found = answer.value(self.at)
        if found is None and "next" in self.at:  # a list of links: the next one is not always at the same place
            link = Facts.of(answer.body, ("",)).link()
            found = link.value if link else None
        if not isinstance(found, str) or not found:
            return None
        return found if re.match(r"[a-z]+://|[/?.]", found) or "?" in found or "=" not in found else f"?{found}"


@dataclass(frozen=True, slots=True)
class ByHeader(_ByLink):
    total_at: Steps | None = None
    kind: ClassVar[str] = "link"

    def mark(self, answer: Answer) -> str | None:
        return next_in_header(answer.headers.get("link", ""))


@dataclass(frozen=True, slots=True)
class Alone:
    """One answer is all."""

    kind: ClassVar[str] = "none"


Way = Numbered | ByCursor | ByNext | ByHeader | Alone
_WAYS: dict[str, type[Way]] = {way.kind: way for way in (Numbered, ByCursor, ByNext, ByHeader, Alone)}


def way_kept(way: Way) -> dict[str, Any]:
    """As JSON."""
    return {"kind": way.kind, **asdict(way)}


def way_found_again(kept: Mapping[str, Any]) -> Way:
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in kept.items() if name != "kind"
    }
    return _WAYS[kept["kind"]](**values)


def first_url(base: str, asked: PaginatorRequest) -> str:
    """What is asked first: the size and the first page only where they are named."""
    wanted: dict[str, int] = {}
    if asked.size is not None:
        wanted[asked.size_parameter or "limit"] = asked.size
    if asked.style == "page" and asked.first_page is not None:
        wanted[asked.page_parameter or "page"] = asked.first_page
    return with_query(base, wanted)


def way_on(asked: PaginatorRequest, answer: Answer, facts: Facts, source: str) -> Way:
    """How it goes on from the first answer. Raises `SourceFailed` when there is more and no way is seen."""
    if asked.style == "none":
        return Alone()
    if asked.style == "auto":
        return _found(asked, answer, facts, source)
    total_at = _total(asked, answer, facts)
    if asked.style == "page":
        return _by_page(asked, answer, facts, total_at)
    if asked.style == "offset":
        return _by_offset(asked, answer, facts, total_at)
    if asked.style == "cursor":
        return _by_cursor(asked, facts, source, total_at)
    if asked.style == "next":
        link = facts.link()
        at = steps_of(asked.next_path) if asked.next_path else (link.steps if link else ())
        return _leading_on(ByNext(at, total_at), answer, total_at, source)
    return _leading_on(ByHeader(total_at), answer, total_at, source)


def _leading_on(way: ByNext | ByHeader, answer: Answer, total_at: Steps | None, source: str) -> Way:
    """Raises `SourceFailed` when there are more records by the source's own word, and no link to them."""
    total = answer.number(total_at) or 0
    if total > answer.count and way.mark(answer) is None:
        raise SourceFailed(
            f"{source} speaks of {total} records, its first answer has {answer.count} and no link to the others.",
            hint=NAME_ONE,
        )
    return way


def _found(asked: PaginatorRequest, answer: Answer, facts: Facts, source: str) -> Way:
    total_at = _total(asked, answer, facts)
    total, pages = answer.number(total_at), facts.number(PAGES)
    cursor = facts.cursor()
    if answer.count and (asked.cursor_path or (cursor and cursor.name not in ("after", "bookmark", "cursor"))):
        return _by_cursor(asked, facts, source, total_at)
    goes_on = total is not None or facts.flag(MORE) is not None or facts.flag(LAST) is not None
    if number_in_query(answer.asked, _QUERY_PAGE) or facts.number(PAGE):
        if goes_on or pages or _looks_full(answer, facts):
            return _by_page(asked, answer, facts, total_at)
    elif goes_on and (number_in_query(answer.asked, _QUERY_OFFSET) or facts.number(OFFSET)):
        return _by_offset(asked, answer, facts, total_at)
    if asked.page_parameter or asked.offset_parameter:
        by = _by_page if asked.page_parameter else _by_offset
        return by(asked, answer, facts, total_at)
    if next_in_header(answer.headers.get("link", "")):
        return ByHeader(total_at)
    if link := facts.link():
        return ByNext(link.steps, total_at)
    if numbered := _by_told_number(facts, answer, total_at):
        return numbered
    if cursor and answer.count:
        return _by_cursor(asked, facts, source, total_at)
    if pages and pages.value > 1:
        return _by_page(asked, answer, facts, total_at)
    return _nothing_more(answer, facts, total, source)


def _looks_full(answer: Answer, facts: Facts) -> bool:
    """Whether it tells its page and has as many records as it says a page has: there may be another one."""
    size, page = facts.number(SIZE, least=1), facts.number(PAGE)
    return page is not None and page.value <= 1 and size is not None and 1 < size.value <= answer.count


def _nothing_more(answer: Answer, facts: Facts, total: int | None, source: str) -> Way:
    more, last = facts.flag(MORE), facts.flag(LAST)
    if total is None:
        total = total_in_headers(answer.headers)
    told = None
    if total is not None and total > answer.count:
        told = f"{total} records"
    elif (more and more.value) or (last and not last.value):
        told = "more records"
    if told is None:
        return Alone()
    raise SourceFailed(
        f"{source} speaks of {told}, its first answer has {answer.count}, and no way to the others can be seen.",
        hint=NAME_ONE,
    )


def _by_told_number(facts: Facts, answer: Answer, total_at: Steps | None) -> ByCursor | None:
    """`"next_page": 2` and `"next_offset": 100`: numbers that are cursors."""
    for names, parameter in ((NEXT_NUMBER, "page"), (NEXT_OFFSET, "offset")):
        fact = facts.number(names, least=1)
        if fact is not None and answer.count:
            return ByCursor(parameter, fact.steps, total_at=total_at)
    return None


def _total(asked: PaginatorRequest, answer: Answer, facts: Facts) -> Steps | None:
    """Where the number of all records is told; None for a number that cannot be that."""
    if asked.total_path:
        return steps_of(asked.total_path)
    for name in TOTAL:
        fact = facts.number((name,))
        if fact is None or fact.value < answer.count:
            continue
        if name in ("count", "itemcount") and fact.value == answer.count:  # of this page, as likely as not
            continue
        return fact.steps
    return None


def _more(facts: Facts) -> tuple[Steps | None, bool]:
    if more := facts.flag(MORE):
        return more.steps, True
    last = facts.flag(LAST)
    return (last.steps, False) if last else (None, True)


def _numbered(
    asked: PaginatorRequest,
    answer: Answer,
    facts: Facts,
    total_at: Steps | None,
    parameter: str,
    first: int,
    *,
    by: bool,
) -> Numbered:
    told = facts.number(SIZE, least=1)
    size = min(told.value if told else asked.size or answer.count, answer.count) or 1
    total, pages = answer.number(total_at), facts.number(PAGES)
    more_at, means = _more(facts)
    return Numbered(
        parameter=parameter,
        first=first,
        step=size if by else 1,
        size=size,
        total=total,
        total_at=total_at,
        pages=None if by or pages is None else pages.value,
        pages_at=None if by or pages is None else pages.steps,
        more_at=more_at,
        more_means=means,
        by_count=by,
    )


def _by_page(asked: PaginatorRequest, answer: Answer, facts: Facts, total_at: Steps | None) -> Numbered:
    in_query = number_in_query(answer.asked, (asked.page_parameter.lower(),) if asked.page_parameter else _QUERY_PAGE)
    told = facts.number(PAGE)
    if in_query is not None:
        parameter, first = in_query
    else:
        parameter = asked.page_parameter or _as_parameter(told, ("pagenumber", "pageno", "pageindex"), "page")
        first = asked.first_page if asked.first_page is not None else told.value if told else 1
    return _numbered(asked, answer, facts, total_at, parameter, first, by=False)


def _by_offset(asked: PaginatorRequest, answer: Answer, facts: Facts, total_at: Steps | None) -> Numbered:
    names = (asked.offset_parameter.lower(),) if asked.offset_parameter else _QUERY_OFFSET
    in_query, told = number_in_query(answer.asked, names), facts.number(OFFSET)
    if in_query is not None:
        parameter, first = in_query
    else:
        parameter = asked.offset_parameter or _as_parameter(told, OFFSET, "offset")
        first = told.value if told and told.value < max(answer.count, 1) else 0
    return _numbered(asked, answer, facts, total_at, parameter, first, by=True)


def _by_cursor(asked: PaginatorRequest, facts: Facts, source: str, total_at: Steps | None) -> ByCursor:
    found = facts.cursor()
    if asked.cursor_path:
        at = steps_of(asked.cursor_path)
    elif found is not None:
        at = found.steps
    elif facts.ended():
        at = ("",)
    else:
        raise SourceFailed(
            f"{source}: no cursor is seen in its first answer.",
            hint="Name its place with `source.paginator.cursor_path`.",
        )
    more_at, means = _more(facts)
    return ByCursor(asked.cursor_parameter or _cursor_parameter(at[-1]), at, more_at, means, total_at)


def _cursor_parameter(name: str) -> str:
    """`nextPageToken` is given back as `pageToken`, `next_cursor` as `cursor`."""
    if name.lower() in ("next", "endcursor", "end_cursor"):
        return "after" if name.lower() != "next" else "cursor"
    short = re.sub(r"^next_?", "", name, flags=re.IGNORECASE)
    if short == name or not short:
        return name
    if name.startswith("next") and not name.startswith("next_"):  # nextToken is given back under its own name
        return name if short.lower() == "token" else short[0].lower() + short[1:]
    return name if short.lower() == "token" and name[0].isupper() else short


def _as_parameter(told: Fact | None, names: tuple[str, ...], otherwise: str) -> str:
    """The name of the member that tells it, where sources take it under that name too."""
    return told.steps[-1] if told is not None and told.name in names else otherwise


def looks_cut(way: Way, answer: Answer, asked: PaginatorRequest) -> str | None:
    """A sentence when one answer is all, and has just as many records as were asked for."""
    wanted = number_in_query(answer.asked, _QUERY_SIZE)
    size = asked.size or (wanted[1] if wanted else None)
    if not isinstance(way, Alone) or asked.style == "none" or not size or answer.count != size:
        return None
    return (
        f"The answer has exactly the {size} records that were asked for and does not say whether there are more; "
        "if there are, name a paginator."
    )


def described(way: Way) -> str:
    """For the result: which way it was."""
    if isinstance(way, Numbered):
        return f"{'offset' if way.by_count else 'page'}: {way.parameter}"
    if isinstance(way, ByCursor):
        return f"cursor: {way.parameter} from {pointer_of(way.at)}"
    return f"next: {pointer_of(way.at)}" if isinstance(way, ByNext) else way.kind
