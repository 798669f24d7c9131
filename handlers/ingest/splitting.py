"""Long streams cut into records: NDJSON, one big JSON array, CSV (RFC 4180). Memory stays flat."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from engines.errors import SourceFailed
from engines.records.fields import Kind
from handlers.ingest.documents import Raw, broken_because

Item = tuple[Raw, str | None]
"""A record, and why it is none, if so."""
LONGEST_RECORD = 16 * 1024 * 1024
LONGEST_CELL = 4 * 1024 * 1024
BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|"|[\[\]{},]', re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?\Z")
_TRUTH = {"true": True, "t": True, "yes": True, "1": True, "false": False, "f": False, "no": False, "0": False}
_lines = msgspec.json.Decoder(Raw)

csv.field_size_limit(LONGEST_CELL)  # of this process; nobody else here reads CSV


def json_lines(blocks: Iterable[bytes], source: str) -> Iterator[list[Item]]:
    """Records of NDJSON, a list for each block. Empty lines are passed over."""
    begun = False
    for lines in _whole_lines(blocks, source):
        if not begun and lines.lstrip().startswith(b"<"):
            raise SourceFailed(f"{source} answers HTML or XML where NDJSON was expected.")
        begun = begun or bool(lines.strip())
        wanted = sum(1 for line in lines.splitlines() if line.strip())
        try:
            found = _lines.decode_lines(lines)
        except (msgspec.DecodeError, RecursionError):
            found = []
        if len(found) == wanted:
            yield [(raw, None) for raw in found]
        else:
            apart = [line.strip() for line in lines.split(b"\n") if line.strip()]
            yield [(Raw(line), broken_because(line)) for line in apart]


def _whole_lines(blocks: Iterable[bytes], source: str) -> Iterator[bytes]:
    rest, first = b"", True
    for block in blocks:
        if first:
            block, first = _without_bom(block, source), False
        head, end, tail = block.rpartition(b"\n")
        if not end:
            rest += block
            if len(rest) > LONGEST_RECORD:
                raise _too_long(source)
            continue
        yield rest + head + end
        rest = tail
    if rest.strip():
        yield rest


def json_array(blocks: Iterable[bytes], source: str) -> Iterator[list[Item]]:
    """Records of a JSON array at the top of a document, however long. Raises `SourceFailed` when it ends too early, or
    goes on behind its end."""
    splitter, rest = _ArraySplitter(), iter(blocks)
    for block in rest:
        yield _looked_at(splitter.feed(block if splitter.begun else _without_bom(block.lstrip(), source)))
        if splitter.over:
            break
        if splitter.waiting > LONGEST_RECORD:
            raise _too_long(source)
    else:
        raise SourceFailed(f"{source} ends in the middle of a JSON array.")
    if splitter.behind.strip() or any(block.strip() for block in rest):
        raise SourceFailed(f"{source} goes on behind the end of its JSON array.")


class _ArraySplitter:
    """Cuts a JSON array into its items by brackets and strings."""

    def __init__(self) -> None:
        self._data = b""
        self._began = 0
        """Where the item begins that is not whole yet."""
        self._at = 0
        """Up to where it was looked at."""
        self._depth = 0
        self.over = False

    @property
    def begun(self) -> bool:
        return self._depth > 0

    @property
    def waiting(self) -> int:
        return len(self._data) - self._began

    @property
    def behind(self) -> bytes:
        return self._data[self._at :]

    def feed(self, block: bytes) -> list[bytes]:
        """The items that are whole now."""
        self._data = data = self._data[self._began :] + block
        self._at, self._began = self._at - self._began, 0
        found: list[bytes] = []
        for token in _TOKEN.finditer(data, self._at):
            sign = token.group()
            if sign == b'"':  # a string that ends in a later block
                break
            self._at = token.end()
            if self._depth == 1 and sign in (b",", b"]"):
                if item := data[self._began : token.start()].strip():
                    found.append(item)
                self._began = self._at
            self._nest(sign)
            if self.over:
                break
        return found

    def _nest(self, sign: bytes) -> None:
        if sign in (b"[", b"{"):
            self._depth += 1
            if self._depth == 1:
                self._began = self._at
        elif sign in (b"]", b"}"):
            self._depth -= 1
            self.over = self._depth < 1


def _looked_at(items: list[bytes]) -> list[Item]:
    try:
        found = msgspec.json.decode(b"[" + b",".join(items) + b"]", type=list[Raw])
        if len(found) == len(items):
            return [(raw, None) for raw in found]
    except (msgspec.DecodeError, RecursionError):
        pass
    return [(Raw(item), broken_because(item)) for item in items]


def csv_rows(blocks: Iterable[bytes], kinds: Mapping[str, Kind], source: str) -> Iterator[list[Item]]:
    """Records of CSV with a row of names first, as JSON objects: cells as strings, of booleans, floats and JSON as
    such; an empty cell is left out. Comma, semicolon or tab, whichever the first row has most of."""
    lines = _text_lines(blocks, source)
    head = next(lines, "")
    reader = csv.reader(_chained(head, lines), delimiter=_delimiter(head), strict=True)
    names: list[str] | None = None
    rows: list[Item] = []
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise SourceFailed(
                f"{source} is no CSV at line {reader.line_num}: {error}.",
                hint="Quotes are doubled within quotes and closed at the end (RFC 4180).",
            ) from None
        if cells is None:
            break
        if not cells:
            continue
        if names is None:
            names = _names(cells, source)
            _look_at(names, kinds, source)
            continue
        rows.append(_row(names, cells, kinds))
        if len(rows) >= 1000:
            yield rows
            rows = []
    yield rows


def _names(cells: list[str], source: str) -> list[str]:
    names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, start=1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceFailed(f"{source} has several columns called {', '.join(map(repr, twice[:5]))}.")
    return names


def _look_at(names: list[str], kinds: Mapping[str, Kind], source: str) -> None:
    """Raises `SourceFailed` for what is no table of these fields: a page to log in, an error's text."""
    if names[0].startswith("<"):
        raise SourceFailed(f"{source} answers HTML or XML where CSV was expected.")
    if kinds and not {name.removeprefix("/") for name in kinds} & set(names):
        shown = ", ".join(repr(name[:60]) for name in names[:5])
        raise SourceFailed(
            f"{source} has no column that the collection has: its first row is {shown}.",
            hint="The first row of CSV names the columns; `source.fields` maps them to fields of the collection.",
        )


def _row(names: list[str], cells: list[str], kinds: Mapping[str, Kind]) -> Item:
    if len(cells) != len(names):
        text = msgspec.json.encode([cell.encode("utf-8", "replace").decode() for cell in cells])
        return Raw(text), f"It has {len(cells)} cells, the first row has {len(names)}."
    record = {name: _value(cell, kinds.get(name)) for name, cell in zip(names, cells, strict=True) if cell}
    try:
        return Raw(msgspec.json.encode(record)), None
    except UnicodeEncodeError:
        shown = [cell.encode("utf-8", "replace").decode() for cell in cells]
        return Raw(msgspec.json.encode(dict(zip(names, shown, strict=True)))), "It is not UTF-8."


def _value(cell: str, kind: Kind | None) -> object:
    if kind == "boolean":
        return _TRUTH.get(cell.strip().lower(), cell)
    if kind == "float" and _NUMBER.match(cell.strip()):
        return Raw(cell.strip().encode())
    if kind == "json" and broken_because(cell.encode("utf-8", "replace")) is None:
        return Raw(cell.encode())
    if kind in ("integer", "decimal", "date", "timestamp"):
        return cell.strip()
    return cell


def _text_lines(blocks: Iterable[bytes], source: str) -> Iterator[str]:
    """Lines with their ends. What is no UTF-8 is kept as half surrogates, so that its row can be told apart."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    rest, first = "", True
    for block in blocks:
        if first:
            block, first = _without_bom(block, source), False
        lines = _split(rest + decoder.decode(block))
        rest = lines.pop()
        yield from lines
        if len(rest) > LONGEST_RECORD:
            raise _too_long(source)
    rest += decoder.decode(b"", final=True)
    if rest:
        yield rest


def _split(text: str) -> list[str]:
    """By line feeds alone; the last part has none."""
    parts = text.split("\n")
    return [*(part + "\n" for part in parts[:-1]), parts[-1]]


def _chained(head: str, lines: Iterator[str]) -> Iterator[str]:
    if head:
        yield head
    yield from lines


def _delimiter(head: str) -> str:
    bare = re.sub(r'"[^"]*"', "", head)
    return max(",;\t", key=bare.count)


def _without_bom(block: bytes, source: str) -> bytes:
    if block.startswith(_WIDE_BOMS):
        raise SourceFailed(f"{source} is UTF-16.", hint="Save it as UTF-8.")
    return block.removeprefix(BOM)


def _too_long(source: str) -> SourceFailed:
    return SourceFailed(
        f"{source} has a record, or a line, of more than {LONGEST_RECORD >> 20} MiB.",
        hint="Look whether its format is what was named, and whether its lines and quotes end.",
    )
