"""What a first answer says beside its records: totals, page numbers, cursors, links."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from handlers.ingest.documents import Raw, Steps, first_byte, members, plain
from handlers.ingest.links import looks_like_link

_NOT_LETTERS = re.compile(r"[^a-z0-9]")
_DEEPEST = 4
_LONGEST = 64 * 1024
"""Bytes of a member that is still looked into."""

TOTAL = [
    "total",
    "totalcount",
    "totalrecords",
    "totalitems",
    "totalresults",
    "totalelements",
    "recordstotal",
    "numfound",
    "odatacount",
    "totalrows",
    "totalhits",
    "totalsize",
    "count",
    "itemcount",
]
PAGES = ("totalpages", "pages", "pagecount", "numpages", "lastpage", "pagestotal", "maxpage")
PAGE = ("page", "currentpage", "pagenumber", "pageno", "pagenum", "pageindex", "number", "current")
SIZE = ("limit", "perpage", "pagesize", "itemsperpage", "size", "take", "pagelimit", "maxresults")
OFFSET = ("offset", "skip", "startat", "startindex", "start")
MORE = ("hasmore", "hasnext", "hasnextpage", "more", "moreavailable", "ismore")
LAST = ("islast", "islastpage", "last")
CURSOR = [
    "nextcursor",
    "nextpagetoken",
    "nexttoken",
    "endcursor",
    "continuationtoken",
    "continuation",
    "nextpagecursor",
    "cursor",
    "pagingtoken",
    "scrollid",
    "nextbookmark",
    "bookmark",
    "next",
    "after",
]
NEXT = [
    "next",
    "nexturl",
    "nextlink",
    "nextpage",
    "nextpageurl",
    "odatanextlink",
    "nextrecordsurl",
    "nexthref",
    "nexturi",
]
NEXT_NUMBER = ("nextpage", "next", "nextpagenumber")
NEXT_OFFSET = ("nextoffset", "nextstart", "nextskip")


@dataclass(frozen=True, slots=True)
class Fact:
    steps: Steps
    name: str
    """Of the member: letters and digits, small."""
    value: Any
    """A string, number, boolean or None."""


class Facts:
    """The plain members of an answer, those of inner objects too, the outer ones first."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self._facts = sorted(facts, key=lambda fact: len(fact.steps))

    @classmethod
    def of(cls, body: bytes, records: Steps) -> Facts:
        """Of a whole answer, without what its records hold."""
        if body.startswith(b"\xef\xbb\xbf"):
            body = body[3:]
        if first_byte(body) != b"{" or not records:
            return cls(())
        return cls(_facts(members(body), (), records))

    def number(self, names: Sequence[str], *, least: int = 0) -> Fact | None:
        """The first member of these names, in the order of the names, with a whole number; text of digits counts."""
        for fact in self._named(names):
            value = fact.value
            if isinstance(value, str) and value.isdecimal() and len(value) < 16:
                value = int(value)
            if isinstance(value, int) and not isinstance(value, bool) and value >= least:
                return Fact(fact.steps, fact.name, value)
        return None

    def flag(self, names: Sequence[str]) -> Fact | None:
        return next((fact for fact in self._named(names) if isinstance(fact.value, bool)), None)

    def link(self) -> Fact | None:
        """A URL that leads to the next page."""
        for fact in self._facts:
            above = _plain_name(fact.steps[-2]) if len(fact.steps) > 1 else ""
            if above == "next" and fact.steps[-1] in ("href", "url", "uri") and fact.value:
                return fact
        return next((fact for fact in self._named(NEXT) if looks_like_link(fact.value)), None)

    def cursor(self) -> Fact | None:
        """A value that stands for the next page; never a URL."""
        for fact in self._named(CURSOR):
            value = fact.value
            if isinstance(value, str) and value and not looks_like_link(value):
                return fact
            if fact.name.startswith("nextc") and isinstance(value, int) and not isinstance(value, bool):
                return fact
        return None

    def ended(self) -> bool:
        """Whether a member that would tell of a next page is there and says that there is none."""
        names = {*NEXT, *NEXT_OFFSET, *CURSOR} - {"cursor", "after", "bookmark", "start", "continuation"}
        empty = any(fact.name in names and fact.value in (None, "", False) for fact in self._facts)
        more, last = self.flag(MORE), self.flag(LAST)
        return empty or (more is not None and not more.value) or (last is not None and last.value)

    def _named(self, names: Sequence[str]) -> Iterator[Fact]:
        for name in names:
            yield from (fact for fact in self._facts if fact.name == name)


def _plain_name(name: str) -> str:
    return _NOT_LETTERS.sub("", name.lower())


def _facts(inside: Mapping[str, Raw], above: Steps, records: Steps) -> Iterator[Fact]:
    for name, value in inside.items():
        steps = (*above, name)
        if steps == records or (len(memoryview(value)) > _LONGEST and steps != records[: len(steps)]):
            continue
        beginning = first_byte(value)
        if beginning == b"{" and len(steps) < _DEEPEST:
            yield from _facts(members(value), steps, records)
        elif beginning == b"[" and _plain_name(name) in ("links", "link"):
            yield from _related(value, steps)
        elif beginning not in (b"{", b"["):
            plainly = _plain_name(name)
            if plainly == "value" and above and _plain_name(above[-1]) in TOTAL:  # {"total": {"value": 1000}}
                plainly = _plain_name(above[-1])
            yield Fact(steps, plainly, plain(value))


def _related(links: Raw, steps: Steps) -> Iterator[Fact]:
    """`[{"rel": "next", "href": …}]` as the member next.href."""
    try:
        found = msgspec.json.decode(links)
    except (msgspec.DecodeError, RecursionError):
        return
    for position, link in enumerate(found):
        if isinstance(link, dict) and "next" in (link.get("rel"), link.get("relation")):
            for name in ("href", "url", "uri"):
                yield Fact((*steps, str(position), "next", name), name, link.get(name))
