"""JSON documents of sources: cut into their members and items without reading these; found their records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import msgspec

from engines.errors import SourceFailed

Raw = msgspec.Raw
Steps = tuple[str, ...]
"""The way to a place in a document, by names of members and positions of items; empty: the document itself."""

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},:]', re.DOTALL)
_OBJECTS = re.compile(rb"\s*\[\s*\{")
_NOTHING = re.compile(rb"\s*(?:\[\s*\]|null)\s*\Z")
_DEEPEST = 3
"""How many objects deep records are looked for."""
RECORDS_NAMES = (
    "data",
    "results",
    "items",
    "records",
    "value",
    "values",
    "rows",
    "content",
    "entries",
    "hits",
    "objects",
)
_OTHER_ARRAYS = frozenset({"links", "_links", "link", "errors", "warnings", "messages", "included", "facets"})
_ERROR_NAMES = ("error", "errors", "fault", "exception", "error_message", "errormessage")
_FALSY = frozenset({b"null", b"false", b"[]", b"{}", b'""', b"0"})

_members = msgspec.json.Decoder(dict[str, Raw])
_items = msgspec.json.Decoder(list[Raw])
_value = msgspec.json.Decoder(Raw)


@dataclass(slots=True)
class Records:
    """The records of one answer, as they came."""

    items: list[Raw]
    broken: dict[int, str] = field(default_factory=dict)
    """Positions (from 0) of those that are no JSON, and why."""
    digest: int = 0
    """Of their bytes, 64 bits: another page has another one."""


def steps_of(path: str) -> Steps:
    """`/a/b` (JSON pointer) or `a.b`; `/` is the document itself."""
    if path.startswith("/"):
        return () if path == "/" else tuple(p.replace("~1", "/").replace("~0", "~") for p in path[1:].split("/"))
    return tuple(path.split(".")) if path else ()


def pointer_of(steps: Steps) -> str:
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps) or "/"


def first_byte(document: Raw | bytes) -> bytes:
    return bytes(memoryview(document)[:64]).lstrip()[:1]


def members(document: Raw | bytes) -> dict[str, Raw]:
    """Of an object, nothing in them read. Raises `ValueError` when it cannot even be cut."""
    try:
        return _members.decode(document)
    except (msgspec.DecodeError, RecursionError):
        return dict(_cut_object(bytes(document)))


def items(document: Raw | bytes) -> Records:
    """Of an array. What is within is looked at one by one only where the whole is not right: NaN, a half surrogate, too
    deep. Raises `ValueError` when it cannot even be cut."""
    digest = int.from_bytes(blake2b(document, digest_size=8).digest(), "big")
    try:
        return Records(_items.decode(document), digest=digest)
    except (msgspec.DecodeError, RecursionError):
        found = [Raw(part) for part in _cut_array(bytes(document))]
    broken = {position: why for position, item in enumerate(found) if (why := broken_because(item))}
    return Records(found, broken, digest)


def broken_because(item: Raw | bytes) -> str | None:
    """Why this is no JSON value; None when it is."""
    try:
        _value.decode(item)
    except RecursionError:
        return "It is nested too deeply."
    except msgspec.DecodeError as error:
        return f"It is no JSON: {str(error).removeprefix('JSON is malformed: ')}."
    return None


def dig(document: Raw | bytes, steps: Steps) -> Raw | None:
    """What lies at that place; None when there is nothing. Raises `ValueError` as `members`."""
    found = document if isinstance(document, Raw) else Raw(document)
    for step in steps:
        beginning = first_byte(found)
        if beginning == b"{":
            inner = members(found).get(step)
        elif beginning == b"[" and step.isdecimal():
            inside = items(found).items
            inner = inside[int(step)] if int(step) < len(inside) else None
        else:
            inner = None
        if inner is None:
            return None
        found = inner
    return found


def plain(document: Raw | None) -> Any:
    """A string, number, boolean or null as it is; None for everything else."""
    if document is None or len(memoryview(document)) > 8192 or first_byte(document) in (b"{", b"["):
        return None
    try:
        return msgspec.json.decode(document)
    except msgspec.DecodeError:
        return None


def records_in(body: bytes, steps: Steps | None, source: str) -> tuple[Steps, Records]:
    """The records of an answer and where they are. `steps` None: they are to be found. Raises `SourceFailed`."""
    if body.startswith(b"\xef\xbb\xbf"):
        body = body[3:]
    beginning = first_byte(body)
    if beginning in (b"<", b""):
        what = "HTML or XML" if beginning else "nothing"
        raise SourceFailed(f"{source} answers {what} where JSON was expected.")
    try:
        return _records_in(body, beginning, steps, source)
    except ValueError as error:
        raise SourceFailed(f"{source} answers what is no JSON: {error}.") from None


def _records_in(body: bytes, beginning: bytes, steps: Steps | None, source: str) -> tuple[Steps, Records]:
    if steps is None:
        steps = () if beginning == b"[" else _found(body, beginning, source)
    place = dig(body, steps)
    if place is None:
        raise SourceFailed(
            f"{source} answers without records: there is nothing at {pointer_of(steps)}{_its_error(body)}.",
            hint="Look at the answer; name the place of the records with `source.records`.",
        )
    kind = first_byte(place)
    if kind == b"[":
        found = items(place)
        if not found.items and (problem := _its_error(body)):
            raise SourceFailed(f"{source} answers without records{problem}.")
        return steps, found
    if kind == b"n" and steps and not _its_error(body):
        return steps, Records([])
    if kind == b"{" and not _its_error(body):  # a place that was named: one record
        return steps, items(b"[" + bytes(place) + b"]")
    raise SourceFailed(f"{source} answers without records: at {pointer_of(steps)} is no array{_its_error(body)}.")


def _found(body: bytes, beginning: bytes, source: str) -> Steps:
    """The one array of objects. Raises `SourceFailed` when there is none, or several."""
    if beginning != b"{":
        raise SourceFailed(f"{source} answers a single JSON value where records were expected.")
    level: list[tuple[Steps, Mapping[str, Raw]]] = [((), members(body))]
    empty: list[Steps] = []
    for _ in range(_DEEPEST):
        found: list[Steps] = []
        deeper: list[tuple[Steps, Mapping[str, Raw]]] = []
        for above, inside in level:
            for name, value in inside.items():
                _sort_in((*above, name), value, found, empty, deeper)
        if found:
            return _the_one(found, source)
        level = deeper
    if problem := _its_error(body):
        raise SourceFailed(f"{source} answers without records{problem}.")
    known = [steps for steps in empty if steps[-1].lower() in RECORDS_NAMES]
    if known or empty:
        return (known or empty)[0]
    names = ", ".join(sorted(members(body))[:10])
    raise SourceFailed(
        f"{source} answers without records: an object with {names or 'nothing in it'}, and no array of objects.",
        hint="Name the place of the records with `source.records`; `/` for an answer that is one record.",
    )


def _sort_in(
    steps: Steps, value: Raw, found: list[Steps], empty: list[Steps], deeper: list[tuple[Steps, Mapping[str, Raw]]]
) -> None:
    if steps[-1].lower() in _OTHER_ARRAYS:
        return
    head = bytes(memoryview(value)[:64])
    if _OBJECTS.match(head):
        found.append(steps)
    elif _NOTHING.match(head):
        if head.lstrip().startswith(b"[") or steps[-1].lower() in RECORDS_NAMES:
            empty.append(steps)
    elif first_byte(value) == b"{":
        deeper.append((steps, members(value)))


def _the_one(found: list[Steps], source: str) -> Steps:
    if len(found) == 1:
        return found[0]
    known = [steps for steps in found if steps[-1].lower() in RECORDS_NAMES]
    if len(known) == 1:
        return known[0]
    places = ", ".join(pointer_of(steps) for steps in found[:10])
    raise SourceFailed(
        f"{source} answers with several arrays of objects: {places}.",
        hint="Name the one that holds the records with `source.records`.",
    )


def _its_error(body: bytes) -> str:
    """What an answer says of an error, as the end of a sentence; empty when it speaks of none."""
    if first_byte(body) != b"{":
        return ""
    for name, value in members(body).items():
        if name.lower() in _ERROR_NAMES and bytes(value) not in _FALSY:
            return f"; its member {name!r} speaks of an error"
    return ""


# ---------------------------------------------------------------- cutting what is not quite JSON


def _cut_array(document: bytes) -> Iterator[bytes]:
    """The items of an array by brackets and strings alone. Raises `ValueError` where these do not match."""
    for _, part in _cut(document, b"[", b"]"):
        yield part


def _cut_object(document: bytes) -> Iterator[tuple[str, Raw]]:
    for name, part in _cut(document, b"{", b"}"):
        try:
            yield msgspec.json.decode(name, type=str), Raw(part)
        except msgspec.DecodeError:
            raise ValueError("the name of a member cannot be read") from None


def _cut(document: bytes, opening: bytes, closing: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name (of an object's member) and bytes of each part between the outermost brackets."""
    tokens = _TOKEN.finditer(document)
    first = next(tokens, None)
    if first is None or first.group() != opening or document[: first.start()].strip():
        raise ValueError("it does not begin as it should")
    depth, began, name = 1, first.end(), b""
    for token in tokens:
        sign = token.group()
        if sign == b'"':  # or every quote in it would be sought for its end
            raise ValueError("a string does not end")
        if sign in (b"[", b"{"):
            depth += 1
        elif sign in (b"]", b"}"):
            depth -= 1
        elif depth == 1 and sign == b":" and opening == b"{":
            name, began = document[began : token.start()].strip(), token.end()
        if depth == 0 or (depth == 1 and sign == b","):
            if part := document[began : token.start()].strip():
                yield name, part
            began = token.end()
        if depth == 0:
            if sign != closing or document[began:].strip():
                raise ValueError("brackets do not match, or it goes on after its end")
            return
    raise ValueError("it ends too early")
