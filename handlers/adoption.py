"""Adoption: take a dump that was made by hand from where it was uploaded, prove it, then publish it as a backup."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Annotated, Any

import structlog
from pydantic import AwareDatetime, Field

from engines.artefacts.manifest import MANIFEST_NAME
from engines.artefacts.unwrapping import ADOPTING, BROKEN_HINT, AsItCame, Unwrapped, unwrapped
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.base import AdoptionEngine, Dump, Target
from engines.errors import ArtefactDamaged, FlexError, InvalidDump, ObjectMissing, StorageFailed
from engines.registry import EngineRegistry
from engines.run import Progress, Run
from engines.storage.base import Store
from handlers.base import (
    Claim,
    ConnectionName,
    Fault,
    Handler,
    Labels,
    Outcome,
    Published,
    Request,
)
from handlers.connections import connection_faults
from handlers.incoming import NAME, uploaded
from handlers.making import MadeBackup, Maker, Wanted, told
from handlers.ports import Catalogue, CatalogueEntry, Connections, Stores
from handlers.proof import HIGHEST_LEVEL

log = structlog.get_logger(__name__)
HEAD_BYTES = 64 * 1024
"""What engines recognise a dump by."""
PACKED = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x04\x22\x4d\x18": "lz4", b"PK\x03\x04": "zip"}
"""What a dump is also packed with, by how it begins; not taken off here."""

IncomingName = Annotated[str, Field(pattern=NAME, description="Name of the uploaded dump, see PUT /incoming/{name}.")]


class AdoptionRequest(Request):
    connection: ConnectionName
    path: IncomingName
    sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="Of the file as it was uploaded; another one is refused."
    )
    compression: str = Field(default="zstd", description="`zstd`, `zstd:1` to `zstd:19`, or `none`.")
    verify: int = Field(default=2, ge=0, le=HIGHEST_LEVEL, description="Level to reach before it counts as completed.")
    labels: Labels = Field(default_factory=dict)
    storage: str | None = Field(default=None, description="Name of the configured store it was uploaded to.")
    whole: bool | None = Field(
        default=None,
        strict=True,
        description="Whether the dump holds all of its database, which you may know and FlexDB cannot; `latest` takes "
        "whole ones. What a dump itself shows to be a part is one, whatever is said here.",
    )
    keep: bool = Field(default=False, description="Leave the uploaded file where it is.")
    made_at: AwareDatetime | None = Field(
        default=None, description="When the dump was made; now, when left out. `latest` goes by it."
    )


class AdoptionResult(MadeBackup):
    format: str
    adopted: dict[str, Any]
    """The file as it came: `name`, `bytes`, `sha256`, `format`, `modified`."""


class AdoptionHandler(Handler[AdoptionRequest]):
    operation = "adoption"
    request_model = AdoptionRequest
    result_model = AdoptionResult
    writes = True
    """It removes the uploaded file, and what is adopted is what restores will take."""

    def __init__(
        self,
        connections: Connections,
        stores: Stores,
        catalogue: Catalogue,
        engines: EngineRegistry,
        version: str,
    ) -> None:
        self._connections = connections
        self._stores = stores
        self._engines = engines
        self._maker = Maker(connections, stores, catalogue, engines, version)

    def faults(self, request: AdoptionRequest) -> list[Fault]:
        faults = connection_faults(self._connections, connection=request.connection)
        try:
            Compression.parse(request.compression)
        except ValueError as error:
            faults.append(Fault("/compression", str(error)))
        try:
            self._stores.store(request.storage)
        except FlexError as error:
            faults.append(Fault("/storage", f"{error.message} {error.hint}"))
        if request.path == MANIFEST_NAME:
            faults.append(Fault("/path", f"{MANIFEST_NAME} is the name of FlexDB's own files; give it another."))
        return faults or self._engine_faults(request)

    def _engine_faults(self, request: AdoptionRequest) -> list[Fault]:
        try:
            self._engine(self._connections.target(request.connection))
        except FlexError as error:
            return [Fault("/connection", error.message)]
        return []

    def _engine(self, target: Target) -> AdoptionEngine:
        return self._engines.for_target(target, AdoptionEngine, self.operation)

    def claims(self, request: AdoptionRequest) -> tuple[Claim, ...]:
        return (Claim(f"incoming:{self._stores.store(request.storage).name}/{request.path}", "exclusive"),)

    def run(self, request: AdoptionRequest, run: Run) -> Outcome:
        target, store = self._connections.target(request.connection), self._stores.store(request.storage)
        wanted = Wanted(
            target=target,
            level=request.verify,
            compression=request.compression,
            storage=request.storage,
            labels=request.labels,
            made_at=None if request.made_at is None else min(request.made_at, run.now()),
        )

        def take_in(out: ArtefactWriter) -> Dump:
            return self._take_in(request, target, store, out, run)

        entry = self._maker.make(wanted, take_in, run, run.point_of_no_return)
        if not request.keep:
            _remove(store, entry)
        manifest = entry.manifest
        result = AdoptionResult(**told(entry), format=manifest.files[0].format, adopted=manifest.options["adopted"])
        return Outcome(result, (Published(entry),))

    def _take_in(self, request: AdoptionRequest, target: Target, store: Store, out: ArtefactWriter, run: Run) -> Dump:
        """Everything of the uploaded file goes into `out`, by the hands of the connection's engine."""
        name = request.path
        found = uploaded(store, name)
        if found is None:
            raise ObjectMissing(
                f"{name} is not among what was uploaded to the store {store.name!r}.",
                hint="GET /incoming lists what there is; upload it with PUT /incoming/{name} or `flexdb adopt`.",
            )
        with store.open(found.key) as stored, closing(AsItCame(stored, name, found.bytes, run)) as came:
            source = unwrapped(came, name)
            format = self._recognised(source.head(HEAD_BYTES), name, target)
            dump = self._engine(target).adopt(source, format, out, _told_by_the_file(run))
            _read_on(source, name)
            digest = came.sha256()
        if request.sha256 not in (None, digest):
            raise InvalidDump(
                f"{name} is not the file that was meant: its SHA-256 is {digest}.",
                hint="Somebody uploaded another under its name; upload yours again.",
            )
        modified = found.modified.isoformat()
        adopted = {"name": name, "bytes": came.bytes, "sha256": digest, "format": format, "modified": modified}
        said = {} if request.whole is None else {"whole": request.whole}
        return replace(dump, options=said | dump.options | {"adopted": adopted})

    def _recognised(self, head: bytes, name: str, target: Target) -> str:
        """The format of the dump, as the connection's engine names it. Raises `InvalidDump`."""
        if not head:
            raise InvalidDump(f"{name} is empty.", hint=BROKEN_HINT)
        format = self._engine(target).recognise(head)
        if format is not None:
            return format
        for kind in self._engines.kinds():
            other = self._engines.by_kind(kind)
            if isinstance(other, AdoptionEngine) and (format := other.recognise(head)) is not None:
                raise InvalidDump(
                    f"{name} is a dump for {kind} ({format}); the connection {target.connection!r} is {target.engine}.",
                    hint=f"Name a connection whose engine is {kind}.",
                )
        for beginning, packed in PACKED.items():
            if head.startswith(beginning):
                raise InvalidDump(
                    f"{name} is packed with {packed}.", hint="Unpack it first; gzip and zstd may stay around it."
                )
        raise InvalidDump(f"{name} is no dump that any engine knows.")


def _told_by_the_file(run: Run) -> Run:
    """The same run for the engine, whose own word of how far the reading is goes nowhere: only the file knows its
    length."""

    def listen(progress: Progress) -> None:
        if progress.stage != ADOPTING or progress.total is not None:
            run.listener(progress)

    return replace(run, listener=listen)


def _read_on(source: Unwrapped, name: str) -> None:
    """To the end, so that all of the file is looked at; zeros may follow a dump, as they do in a tape archive."""
    while data := source.read():
        if data.strip(b"\0"):
            raise ArtefactDamaged(f"{name} goes on after the dump's end.", hint=BROKEN_HINT)


def _remove(store: Store, entry: CatalogueEntry) -> None:
    """Remove the uploaded file, unless another was uploaded under its name meanwhile."""
    adopted = entry.manifest.options["adopted"]
    try:
        found = uploaded(store, adopted["name"])
        if found is not None and (found.bytes, found.modified.isoformat()) == (adopted["bytes"], adopted["modified"]):
            store.delete(found.key)
    except StorageFailed as error:  # the backup is published: that the file stays is a nuisance, not a failure
        log.warning("incoming_not_removed", store=store.name, name=adopted["name"], error=error.message)
