"""A stored dump, read back: what it lists, and its documents, whichever of the two layouts it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from engines.artefacts.manifest import Evidence, StoredFile
from engines.artefacts.reading import Artefact, damaged
from engines.errors import ArtefactDamaged, InvalidTarget
from engines.mongodb import archive, directory
from engines.mongodb.address import SYSTEM
from engines.mongodb.archive import ArchiveReader, Block, Name, Prelude, described
from engines.mongodb.directory import DirectoryReader
from engines.mongodb.documents import Malformed
from engines.mongodb.metadata import Collection
from engines.run import Run

FORMATS = (archive.FORMAT, directory.FORMAT)


@dataclass(frozen=True, slots=True)
class Stored:
    """`blocks` may be read once, to its end: only then is the dump proven to be whole."""

    file: StoredFile
    prelude: Prelude
    blocks: Iterator[Block]
    raw: set[str] = field(default_factory=set)
    """Time-series collections whose documents came as the server's own buckets, known when all were read."""

    def of(self, item_names: set[Name]) -> Iterator[tuple[Collection, Block]]:
        """The blocks of some collections, each with its collection; everything else is read and passed over."""
        find = described(self.prelude.collections)
        for block in self.blocks:
            item = find(block.name)
            if item is not None and (item.database, item.name) in item_names:
                if block.name[1] != item.name:
                    self.raw.add(item.name)
                yield item, block


def dump_file(artefact: Artefact) -> StoredFile:
    """Raises `ArtefactDamaged` when the manifest lists no dump of this engine's."""
    for file in artefact.manifest.files:
        if file.format in FORMATS:
            return file
    return artefact.file(archive.FORMAT)


@contextmanager
def reading(artefact: Artefact, run: Run, stage: str) -> Iterator[Stored]:
    """Sizes, digests and the format's own checks are made on the way; raises `ArtefactDamaged` with evidence."""
    file = dump_file(artefact)
    try:
        if file.format == archive.FORMAT:
            with artefact.open_raw(file, run, stage) as raw:
                whole = ArchiveReader(raw.read)
                yield Stored(file, whole.prelude, whole.blocks())
        else:
            with ExitStack() as stack:
                parts = DirectoryReader(_again(artefact, file, run, stage, stack))
                yield Stored(file, parts.prelude, parts.blocks())
    except Malformed as error:
        raise malformed(file, error) from error


def _again(
    artefact: Artefact, file: StoredFile, run: Run, stage: str, stack: ExitStack
) -> Callable[[], Callable[[int], bytes]]:
    def open_again() -> Callable[[int], bytes]:
        stack.close()
        return stack.enter_context(artefact.open_raw(file, run, stage)).read

    return open_again


def malformed(file: StoredFile, error: Malformed) -> ArtefactDamaged:
    seen = Evidence(level=2, check=file.format, object=file.name, expected="whole", found=str(error), ok=False)
    return damaged(f"{file.name} is damaged: {error}.", seen)


def databases(prelude: Prelude) -> tuple[str, ...]:
    """The user databases a dump holds, in its own order."""
    return tuple(dict.fromkeys(item.database for item in user_collections(prelude)))


def user_collections(prelude: Prelude) -> list[Collection]:
    """Without users, roles, the oplog and the server's own databases, which a dump may hold as well."""
    return [
        item
        for item in prelude.collections
        if item.database
        and item.database not in SYSTEM
        and not item.name.startswith("$")
        and (not item.name.startswith("system.") or item.name == "system.js")
    ]


def meant(prelude: Prelude, database: str) -> list[Collection]:
    """The collections a restore into `database` is about.

    A dump of one database goes wherever it is sent; of one of several only that with the same name is meant. Raises
    `InvalidTarget` when there is none.
    """
    found = user_collections(prelude)
    names = databases(prelude)
    if len(names) <= 1:
        return found
    if database not in names:
        raise InvalidTarget(
            f"The dump holds several databases, and none is named {database!r}.",
            hint=f"Restore into a database named as one of: {', '.join(names)}.",
        )
    return [item for item in found if item.database == database]
