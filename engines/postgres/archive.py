"""A stored pg_dump archive made ready for pg_restore: unpacked into the work folder, or streamed."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from engines.artefacts.manifest import Evidence, StoredFile
from engines.artefacts.reading import RAW_CHUNK, Artefact, damaged
from engines.artefacts.writing import Sink
from engines.base import Content, Source
from engines.errors import ArtefactDamaged, StorageFull
from engines.postgres.toc import Entry, UnreadableTocError, archive_version, read_toc
from engines.run import Run

CUSTOM, DIRECTORY, SQL, GLOBALS = "pg_dump-custom", "pg_dump-directory-tar", "pg_dump-sql", "pg_dumpall-sql"
MAJOR_BY_VERSION = {(1, 14): 12, (1, 15): 16, (1, 16): 17}
"""Which pg_dump began to write which archive version (`K_VERS_*` in `pg_backup_archiver.h`)."""
SPARE_BYTES = 64 << 20
"""Left free beside a staged archive, for everybody else who works there."""


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive pg_restore can read. Its digests have been checked."""

    artefact: Artefact
    file: StoredFile
    path: Path | None
    """File or folder in the work folder; None when there was no room and it must be streamed."""

    def entries(self, run: Run) -> list[Entry]:
        """Its table of contents; raises `ArtefactDamaged`."""
        try:
            if self.path is None:
                with self.artefact.open_raw(self.file, run) as source:
                    return read_toc(cast(BinaryIO, _Exactly(source)))
            with (self.path / "toc.dat" if self.path.is_dir() else self.path).open("rb") as opened:
                return read_toc(opened)
        except (UnreadableTocError, ValueError) as error:
            seen = Evidence(level=2, check="table of contents", object=self.file.name, found=str(error), ok=False)
            raise damaged(f"{self.file.name} has no readable table of contents: {error}.", seen) from error


class _Exactly:
    """Gives as many bytes as asked for, as files do, from a source that gives what it has."""

    def __init__(self, source: Source) -> None:
        self._source, self._rest = source, b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (data := self._source.read(RAW_CHUNK)):
            self._rest += data
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def dump_file(artefact: Artefact) -> StoredFile:
    """The file that holds the database."""
    formats = {file.format for file in artefact.manifest.files}
    return artefact.file(next((format for format in (DIRECTORY, SQL) if format in formats), CUSTOM))


def dump_major(artefact: Artefact, run: Run) -> int:
    """Major version of the pg_dump that made it: from the manifest, else guessed from the archive's head."""
    found = re.match(r"\d+", (artefact.manifest.tool or {}).get("version", ""))
    return int(found.group()) if found else _major_by_head(artefact, run)


def _major_by_head(artefact: Artefact, run: Run) -> int:
    """The oldest pg_dump that writes this archive version; a tar stream has `toc.dat` as its first member."""
    file = dump_file(artefact)
    start = tarfile.BLOCKSIZE if file.format == DIRECTORY else 0
    with artefact.open_raw(file, run) as source:
        head = _Exactly(source).read(start + 7)[start:]
    try:
        return MAJOR_BY_VERSION[archive_version(head)]
    except (UnreadableTocError, KeyError) as error:
        raise unreadable(file, f"unknown archive version: {error}") from error


@contextmanager
def ready(artefact: Artefact, run: Run, free_bytes: Callable[[Path], int]) -> Iterator[Archive]:
    """The archive with every stored byte checked, unpacked when there is room; removed afterwards.

    Raises `ArtefactDamaged`, `ObjectMissing`, `StorageFull` when what cannot be streamed does not fit.
    """
    file = dump_file(artefact)
    fits = free_bytes(run.workspace) >= file.raw_bytes + SPARE_BYTES
    if file.format == DIRECTORY:
        if not fits:
            raise StorageFull(
                f"A parallel dump is unpacked before it is restored: it has {file.raw_bytes} bytes, "
                f"the work folder {free_bytes(run.workspace)} bytes free."
            )
        folder = run.workspace / "archive"
        try:
            unpack(artefact, file, folder, run)
            yield Archive(artefact, file, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the workspace goes with the attempt anyway
    elif fits and file.format != SQL:
        path = artefact.stage(file, run.workspace, run, "archive.dump")
        try:
            yield Archive(artefact, file, path)
        finally:
            path.unlink(missing_ok=True)
    else:
        artefact.check(run)
        yield Archive(artefact, file, None)


def unpack(artefact: Artefact, file: StoredFile, folder: Path, run: Run) -> None:
    """Unpack a stored tar stream into a new folder of mode 0700; raises `ArtefactDamaged`, `StorageFull`."""
    folder.mkdir(mode=0o700)
    with artefact.open_raw(file, run, "staging") as source:
        broken: Exception | None = None
        try:
            extract(source, folder, _own_member)
        except (tarfile.TarError, EOFError, ValueError) as error:
            broken = error
        except OSError as error:
            raise StorageFull(f"{folder.parent} cannot take the archive: {error.strerror}.") from error
        while source.read():  # digests are checked at the end; tar stops reading before it
            pass
    if broken is not None:
        seen = Evidence(level=2, check="tar stream", object=file.name, expected="whole", found=str(broken), ok=False)
        raise damaged(f"{file.name} is not a whole tar stream: {broken}.", seen) from broken


def _own_member(name: str) -> str:
    """Plain names only, as this engine writes them: a tar could say anything."""
    if len(PurePosixPath(name).parts) != 1 or name in {"", ".", ".."}:
        raise ValueError(f"unexpected member {name!r}")
    return name


def extract(source: Source, folder: Path, named: Callable[[str], str]) -> None:
    """Regular files of a tar stream into a folder, under the names that `named` gives; folders are passed over.

    Raises `ValueError` for any other member, `OSError` where the folder cannot take it.
    """
    with tarfile.open(mode="r|", fileobj=cast(IO[bytes], _Exactly(source)), bufsize=1 << 20) as tar:
        for member in tar:
            if member.isdir():
                continue
            data = tar.extractfile(member) if member.isreg() else None
            if data is None:
                raise ValueError(f"unexpected member {member.name!r}")
            path = folder / named(member.name)
            if path.exists():
                raise ValueError(f"member {member.name!r} comes twice")
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                shutil.copyfileobj(data, out, 1 << 20)


def unreadable(file: StoredFile, words: str) -> ArtefactDamaged:
    """pg_restore could not read what has the right digests: it was already broken when it was stored."""
    seen = Evidence(
        level=2, check="pg_restore reads it", object=file.name, expected="whole", found=words[:300], ok=False
    )
    return damaged(f"pg_restore cannot read {file.name}: {words[:300]}", seen)


def pack(folder: Path, sink: Sink, run: Run) -> None:
    """A folder's files into one tar stream, each removed once it is stored: a local store would need the room twice."""
    names = sorted(path.name for path in folder.iterdir())
    names.sort(key=lambda name: name != "toc.dat")  # the table of contents first: readers begin with it
    total = sum((folder / name).stat().st_size for name in names)
    stream = _Progressing(sink, lambda: run.progress("storing", sink.raw_bytes, max(total, sink.raw_bytes)))
    with tarfile.open(mode="w|", fileobj=cast(IO[bytes], stream), bufsize=1 << 20, format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            tar.add(folder / name, arcname=name, recursive=False, filter=_anonymous)
            (folder / name).unlink()


class _Progressing:
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


def content_of(artefact: Artefact) -> Content:
    """`all`, `schema` or `data`: what the dump was made to hold."""
    found: Content = recorded(artefact, "content", "all")
    return found


def recorded(artefact: Artefact, name: str, default: Any) -> Any:
    """An option the manifest recorded at backup."""
    return artefact.manifest.options.get(name, default)
