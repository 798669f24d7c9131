"""Pages of a file, uploaded or by URL, however long it is: NDJSON, CSV, a JSON array; a JSON document up to a size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Literal
from urllib.parse import urlsplit

from engines.artefacts.unwrapping import Unwrapped, unwrapped
from engines.errors import ArtefactDamaged, ObjectMissing, SourceFailed, StorageFailed
from engines.records.fields import Kind
from engines.run import StopToken
from engines.storage.base import Store, StoredObject
from handlers.incoming import incoming_key, uploaded
from handlers.ingest.documents import Raw, Records, Steps, broken_because, first_byte, records_in
from handlers.ingest.pages import Page
from handlers.ingest.splitting import BOM, Item, csv_rows, json_array, json_lines
from handlers.supplies import FetchRules

PAGE_RECORDS = 2500
PAGE_BYTES = 4 * 1024 * 1024
LARGEST = FetchRules().largest
BLOCK = 256 * 1024
HEAD = 64 * 1024
_ENDINGS = {".csv": "csv", ".tsv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "json"}
FileFormat = Literal["json", "ndjson", "csv"]


def format_by_name(name: str) -> str | None:
    """By the ending of a file's name, or of a URL's path; that of a compression left aside."""
    path = urlsplit(name).path.lower()
    for packed in (".gz", ".zst"):
        path = path.removesuffix(packed)
    return next((format for ending, format in _ENDINGS.items() if path.endswith(ending)), None)


class FilePages:
    """Pieces of a long stream as pages."""

    def __init__(self, batches: Iterator[list[Item]], identity: str | None = None) -> None:
        """`identity`: of a file that can be read again as it is; then what was handed out is passed over next time."""
        self.total: int | None = None
        self.notes: list[str] = []
        self.requests = 0
        self._items = chain.from_iterable(batches)
        self._identity = identity
        self._number = 0
        self._records = 0

    def next(self) -> Page | None:
        items: list[Raw] = []
        broken: dict[int, str] = {}
        size = 0
        for raw, why in self._items:
            if why is not None:
                broken[len(items)] = why
            items.append(raw)
            size += len(memoryview(raw))
            if len(items) >= PAGE_RECORDS or size >= PAGE_BYTES:
                break
        if not items:
            return None
        first, self._records = self._records + 1, self._records + len(items)
        self._number += 1
        return Page(1, Records(items, broken), first)

    def ready(self) -> bool:
        return True

    def close(self) -> None:
        """What is being read is waited for: it comes piece by piece."""

    def kept(self) -> dict[str, Any] | None:
        if self._identity is None:
            return None
        return {"identity": self._identity, "records": self._records}

    def go_on(self, kept: Mapping[str, Any]) -> bool:
        """Pass over what an earlier attempt has taken in; False when it was another file."""
        if kept.get("identity") != self._identity or self._identity is None:
            return False
        for _ in range(kept["records"]):
            if next(self._items, None) is None:
                break
        self._records = kept["records"]
        return True


def records_of(
    blocks: Iterable[bytes], format: str, kinds: Mapping[str, Kind], steps: Steps | None, source: str
) -> Iterator[list[Item]]:
    """Records of a stream in one of the formats, in batches. Raises `SourceFailed` while they are read."""
    if format == "ndjson":
        return json_lines(blocks, source)
    if format == "csv":
        return csv_rows(blocks, kinds, source)
    return _json(iter(blocks), steps, source)


def _json(blocks: Iterator[bytes], steps: Steps | None, source: str) -> Iterator[list[Item]]:
    head = b""
    for block in blocks:
        head += block
        if head.removeprefix(BOM).strip():
            break
    if first_byte(head.removeprefix(BOM)) == b"[" and not steps:
        yield from json_array(chain((head,), blocks), source)
        return
    body = bytearray(head)
    for block in blocks:
        body += block
        if len(body) > LARGEST:
            raise SourceFailed(
                f"{source} is one JSON object of more than {LARGEST >> 20} MiB.",
                hint="Such large files are taken as NDJSON, as CSV, or as a JSON array at the top.",
            )
    _, records = records_in(bytes(body), steps, source)
    yield [(raw, records.broken.get(place)) for place, raw in enumerate(records.items)]


def plain_blocks(blocks: Iterator[bytes], source: str) -> Iterator[bytes]:
    """A stream with the gzip or zstd of a packed file taken off. Raises `SourceFailed` for one that is not whole."""
    try:
        plain = unwrapped(_Stream(blocks), source)
        while block := plain.read(BLOCK):
            yield block
    except ArtefactDamaged as error:
        raise SourceFailed(error.message) from error


class _Stream:
    """Blocks as a file to read."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def read(self, size: int = BLOCK, /) -> bytes:
        data = self._rest or next((block for block in self._blocks if block), b"")
        self._rest = data[size:]
        return data[:size]


class Upload:
    """An uploaded file, the gzip or zstd around it taken off."""

    def __init__(self, store: Store, name: str, stop: StopToken) -> None:
        """Raises `ObjectMissing`."""
        found = uploaded(store, name)
        if found is None:
            raise ObjectMissing(
                f"{name} is not among what was uploaded to the store {store.name!r}.",
                hint="GET /incoming lists what there is; upload it with PUT /incoming/{name}.",
            )
        self._name = name
        self._found: StoredObject = found
        self._stored = store.open(incoming_key(name))
        self._stop = stop
        self._plain: Unwrapped = unwrapped(self, name)

    @property
    def identity(self) -> str:
        return f"{self._found.bytes} {self._found.modified.isoformat()}"

    def close(self) -> None:
        self._stored.close()

    def read(self, size: int = BLOCK, /) -> bytes:
        """As it is stored."""
        self._stop.check()
        try:
            return self._stored.read(size)
        except OSError as error:
            raise StorageFailed(f"{self._name} cannot be read: {error.strerror}.") from error

    def format(self) -> str:
        """By its name, else by its beginning."""
        return format_by_name(self._name) or _format_by_head(self._head())

    def _head(self) -> bytes:
        try:
            return self._plain.head(HEAD)
        except ArtefactDamaged as error:
            raise SourceFailed(error.message, hint=error.hint) from error

    def blocks(self) -> Iterator[bytes]:
        try:
            while block := self._plain.read(BLOCK):
                yield block
        except ArtefactDamaged as error:
            raise SourceFailed(error.message, hint=error.hint) from error


def _format_by_head(head: bytes) -> str:
    text = head.removeprefix(BOM).lstrip()
    if text.startswith(b"["):
        return "json"
    if not text.startswith(b"{"):
        return "csv"
    line, end, rest = text.partition(b"\n")
    return "ndjson" if end and rest.strip() and broken_because(line.strip()) is None else "json"
