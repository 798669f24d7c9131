"""The two ways a dump is laid out: the archive, and the directory that is staged and stored as one tar stream."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Protocol, cast

from engines.artefacts.writing import ArtefactWriter, Sink
from engines.errors import StorageFull
from engines.mongodb import archive, directory
from engines.mongodb.archive import ArchiveWriter, Prelude
from engines.mongodb.metadata import Collection
from engines.run import Run


class DumpOut(Protocol):
    """Takes the documents of several collections as they come."""

    def take(self, item: Collection, documents: bytes) -> None: ...

    def end(self, item: Collection) -> None: ...


class _Archive:
    def __init__(self, writer: ArchiveWriter) -> None:
        self._writer = writer

    def take(self, item: Collection, documents: bytes) -> None:
        self._writer.block((item.database, _written_as(item)), documents)

    def end(self, item: Collection) -> None:
        self._writer.end((item.database, _written_as(item)))


def _written_as(item: Collection) -> str:
    """Users and roles lie in the server's own database and are written as if they lay in theirs."""
    return item.name if item.name.startswith("$") else item.data_in or item.name


@contextmanager
def archive_out(out: ArtefactWriter, name: str, prelude: Prelude, concurrent: int) -> Iterator[tuple[DumpOut, Sink]]:
    with out.file(f"{name}.archive", archive.FORMAT) as sink:
        writer = ArchiveWriter(sink)
        writer.begin(prelude, concurrent)
        yield _Archive(writer), sink


class _Staged:
    """One open file per collection that is being read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, IO[bytes]] = {}
        self._files = ExitStack()
        self.bytes = 0

    def take(self, item: Collection, documents: bytes) -> None:
        name = directory.file_name(_written_as(item)) + directory.DOCUMENTS
        if name not in self._open:
            self._open[name] = self._files.enter_context((self._folder / name).open("xb"))
        try:
            self._open[name].write(documents)
        except OSError as error:
            raise StorageFull(f"The dump cannot be staged: {error.strerror}.") from error
        self.bytes += len(documents)

    def end(self, item: Collection) -> None:
        if item.data_in:
            self.take(item, b"")
            self._open[directory.file_name(_written_as(item)) + directory.DOCUMENTS].close()

    def close(self) -> None:
        self._files.close()


@contextmanager
def directory_out(
    out: ArtefactWriter, name: str, prelude: Prelude, run: Run, needed: int, free_bytes: Callable[[Path], int]
) -> Iterator[tuple[DumpOut, None]]:
    """Staged in the workspace, stored when the context ends well; raises `StorageFull` when it has no room for that."""
    free = free_bytes(run.workspace)
    if free < needed:
        raise StorageFull(
            f"The layout `directory` is staged first: the database has {needed} bytes, the work folder {free} free.",
            hint="Free space in FLEXDB_HOME, or use the layout `archive`, which stages nothing.",
        )
    folder = run.workspace / "mongodump"
    folder.mkdir(mode=0o700)
    staged = _Staged(folder)
    try:
        _describe(folder, prelude)
        yield staged, None
        staged.close()
        _store(folder, out, name, prelude.collections[0].database, run)
    finally:
        staged.close()
        shutil.rmtree(folder, ignore_errors=True)  # the workspace goes with the attempt anyway


def _describe(folder: Path, prelude: Prelude) -> None:
    versions = {"ServerVersion": prelude.server_version, "ToolVersion": prelude.tool_version}
    (folder / directory.PRELUDE).write_text(json.dumps(versions, separators=(",", ":")))
    for item in prelude.collections:
        if not item.name.startswith("$"):
            (folder / (directory.file_name(item.name) + directory.METADATA)).write_text(item.as_json())


def _store(folder: Path, out: ArtefactWriter, name: str, database: str, run: Run) -> None:
    files = sorted(path.name for path in folder.iterdir())
    files.sort(key=lambda file: (file != directory.PRELUDE, not file.endswith(directory.METADATA)))
    total = sum((folder / file).stat().st_size for file in files)
    with out.file(f"{name}.tar", directory.FORMAT, staged=True) as sink:
        stream = _Telling(sink, lambda: run.progress("storing", sink.raw_bytes, max(total, sink.raw_bytes)))
        with tarfile.open(
            mode="w|", fileobj=cast(IO[bytes], stream), bufsize=1 << 20, format=tarfile.PAX_FORMAT
        ) as tar:
            for file in files:
                tar.add(folder / file, arcname=f"{database}/{file}", recursive=False, filter=_anonymous)
                (folder / file).unlink()  # stored twice would need the room twice on a local store
        run.stop.check()  # a small tar is written all at once, when it is closed


class _Telling:
    """A sink that tells of every write; what `tarfile` writes to."""

    def __init__(self, sink: Sink, tell: Callable[[], None]) -> None:
        self._sink, self._tell = sink, tell

    def write(self, data: bytes) -> int:
        self._tell()
        return self._sink.write(data)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Who ran the dump and when is in the manifest; the same dump gives the same bytes."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    member.mode = 0o600
    return member
