"""Taking in dumps that somebody made by hand with pg_dump, each of them read to its end on the way."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engines.artefacts.manifest import Evidence
from engines.artefacts.reading import RAW_CHUNK, damaged
from engines.artefacts.writing import ArtefactWriter, Sink
from engines.base import Dump, Source, Tool
from engines.command import ToolOutput, conversing, reading
from engines.errors import ArtefactDamaged, FlexError, InvalidDump, NoFittingClient, StorageFull, ToolFailed
from engines.postgres.archive import CUSTOM, DIRECTORY, GLOBALS, MAJOR_BY_VERSION, SQL, extract, pack
from engines.postgres.by_hand import ByHand
from engines.postgres.clients import Client, Clients
from engines.postgres.outline import CLUSTER_HEADER, HEADER, Outline
from engines.postgres.statements import UnreadableScriptError
from engines.postgres.toc import MAGIC, UnreadableTocError, archive_version
from engines.postgres.verify import to_script
from engines.run import Run

CONSISTENCY = "Made by hand: one transaction snapshot, as pg_dump takes it when it begins."
FORMAT_AT = 10
"""Where an archive's head says its format (`WriteHead` in `pg_backup_archiver.c`): 1 custom, 3 tar or directory."""
MEMBERS = re.compile(r"(?:\./)?(?:[^/]+/)?(toc\.dat|\d+\.dat|blobs(_\d+)?\.toc|blob_\d+\.dat)(\.gz|\.lz4|\.zst)?")
NAMES = {CUSTOM: "adopted.dump", DIRECTORY: "adopted.tar", SQL: "adopted.sql"}
_NOT_BUILT = re.compile(r"not (supported by|built|compiled)|does not support", re.IGNORECASE)
NEITHER = "Take in what pg_dump wrote: -Fc, -Fd, -Ft or plain SQL, whole and as it was."


def recognise(head: bytes) -> str | None:
    """The format of a dump that begins so; None when pg_dump did not make it."""
    if head.startswith(MAGIC):
        return CUSTOM if head[FORMAT_AT : FORMAT_AT + 1] == b"\1" else None
    if HEADER in head[:4096]:
        return SQL
    if CLUSTER_HEADER in head[:4096]:
        return GLOBALS
    return DIRECTORY if any(MEMBERS.fullmatch(name) for name in _members(head)) else None


def _members(head: bytes) -> list[str]:
    """Names of the tar members whose headers lie in `head`."""
    try:
        with tarfile.open(fileobj=io.BytesIO(head), mode="r:") as tar:
            return [member.name for member in _until_broken(tar)]
    except tarfile.TarError:
        return []


def _until_broken(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    try:
        yield from tar
    except tarfile.TarError:  # the head ends inside a member
        return


@dataclass(frozen=True, slots=True)
class Adoption:
    """One dump being taken in."""

    source: Source
    out: ArtefactWriter
    run: Run
    clients: Clients

    def make(self, format: str) -> Dump:
        """Raises `InvalidDump` for what cannot be taken in, `ArtefactDamaged` for what is not whole."""
        taking: dict[str, Callable[[], tuple[Outline, int]]] = {
            CUSTOM: self._custom,
            DIRECTORY: self._directory,
            SQL: self._script,
        }
        if format == GLOBALS:
            raise InvalidDump(
                "A dump of pg_dumpall holds several databases in one script.",
                hint="Take one dump per database with pg_dump, and the roles with pg_dumpall --globals-only.",
            )
        if format not in taking:
            raise InvalidDump(f"PostgreSQL's engine takes in no {format}.", hint=NEITHER)
        return self._describe(format, *taking[format]())

    def _blocks(self) -> Iterator[bytes]:
        while data := self.source.read(RAW_CHUNK):
            self.run.stop.check()
            yield data

    def _storing(self, blocks: Iterable[bytes], sink: Sink) -> Iterator[bytes]:
        for data in blocks:
            sink.write(data)
            yield data

    def _script(self) -> tuple[Outline, int]:
        with self.out.file(NAMES[SQL], SQL) as sink, _script_translated():
            outline = Outline.of(self._storing(self._blocks(), sink))
            if not outline.complete:
                raise UnreadableScriptError("the line that ends a complete dump is missing")
        return outline, _major(outline.tool_version)

    def _custom(self) -> tuple[Outline, int]:
        blocks = self._blocks()
        head = b""
        while len(head) <= FORMAT_AT and (data := next(blocks, b"")):
            head += data
        client, major = self._reader(head)
        with self.out.file(NAMES[CUSTOM], CUSTOM) as sink, _archive_translated():
            outline = Outline()
            with conversing(to_script(client), self.run) as (into, answers):
                walk = _Walk(answers, outline)
                try:
                    for data in self._storing(_chained(head, blocks), sink):
                        into.write(data)
                finally:
                    into.close()
                    walk.wait()
            walk.check()
        return outline, _major(outline.tool_version) or major

    def _reader(self, head: bytes) -> tuple[Client, int]:
        """A pg_restore for the archive, and the oldest pg_dump that writes such."""
        try:
            major = MAJOR_BY_VERSION[archive_version(head)]
        except (UnreadableTocError, KeyError) as error:
            raise InvalidDump(f"The archive's version is not known: {error}.", hint=NEITHER) from error
        return self.clients.for_reading(major), major

    def _directory(self) -> tuple[Outline, int]:
        """Staged, because pg_restore reads a folder; then stored under plain names, whatever they were."""
        folder = self.run.workspace / "adopted"
        try:
            self._unpack(folder)
            with (folder / "toc.dat").open("rb") as toc:
                client, major = self._reader(toc.read(16))
            outline = Outline()
            with _archive_translated(), _script_translated(), reading(to_script(client, str(folder)), self.run) as out:
                outline = Outline.of(_telling(out, _size(folder), self.run))
            with self.out.file(NAMES[DIRECTORY], DIRECTORY) as sink:
                pack(folder, sink, self.run)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the workspace goes with the attempt anyway
        return outline, _major(outline.tool_version) or major

    def _unpack(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        try:
            extract(self.source, folder, _plain_member)
        except OSError as error:
            raise StorageFull(f"{folder.parent} cannot take the archive: {error.strerror}.") from error
        except (tarfile.TarError, EOFError) as error:
            raise _cut(f"the tar stream is broken: {error}") from error
        except ValueError as error:
            raise InvalidDump(f"The tar stream is no folder of pg_dump: {error}.", hint=NEITHER) from error
        for _ in self._blocks():  # what pads a tar stream
            pass
        if not (folder / "toc.dat").is_file():
            raise _cut("its table of contents toc.dat is missing")
        if (folder / "restore.sql").exists():
            _from_tar_format(folder)

    def _describe(self, format: str, outline: Outline, tool_major: int) -> Dump:
        objects = outline.objects()
        server_major = _major(outline.server_version) or tool_major
        return Dump(
            server_version=outline.server_version or "unknown",
            objects=objects,
            counts="none" if outline.inserts else "exact",
            consistency=CONSISTENCY,
            restore_by_hand=ByHand(
                self.out.files, outline.content, tool_major, server_major, schemas=_schema_lines(outline)
            ).lines(),
            tool=Tool("pg_dump", outline.tool_version or str(tool_major)),
            options={
                "content": outline.content,
                "roles": sorted(outline.roles),
                "extensions": sorted(set(outline.extensions)),
                "missing_schemas": outline.missing_schemas,
                "missing_tables": outline.missing_tables,
            },
        )


def _schema_lines(outline: Outline) -> list[str]:
    quoted = ['"' + name.replace('"', '""') + '"' for name in outline.missing_schemas]
    return [f"CREATE SCHEMA IF NOT EXISTS {name}" for name in quoted]


def _major(version: str) -> int:
    found = re.match(r"\d+", version)
    return int(found.group()) if found else 0


def _chained(head: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from blocks


def _telling(output: ToolOutput, total: int, run: Run) -> Iterator[bytes]:
    done = 0
    for data in output.chunks():
        done += len(data)
        run.progress("reading", done, max(total, done))
        yield data


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _plain_member(name: str) -> str:
    """The name a member gets; raises `ValueError` for what pg_dump does not write."""
    if not MEMBERS.fullmatch(name) and not name.endswith("restore.sql"):
        raise ValueError(f"unexpected member {name!r}")
    return name.rpartition("/")[2]


def _from_tar_format(folder: Path) -> None:
    """What -Ft wrote becomes what -Fd would have: it calls lists of large objects otherwise than its own `toc.dat`."""
    (folder / "restore.sql").unlink()  # a script for people
    for path in folder.glob("blobs_*.toc"):
        path.rename(folder / f"{path.stem.removeprefix('blobs_')}.dat")


class _Walk:
    """Reads what a tool answers in a thread of its own, while the tool is fed."""

    def __init__(self, answers: ToolOutput, outline: Outline) -> None:
        self._answers, self._outline = answers, outline
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._read, name="read pg_restore's script", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            taken = Outline.of(self._answers.chunks())
            for name in Outline.__slots__:
                setattr(self._outline, name, getattr(taken, name))
        except (FlexError, UnreadableScriptError, OSError) as error:
            self._failure = error
            self._read_out()

    def _read_out(self) -> None:
        """Else the tool, and whoever feeds it, would wait for ever."""
        try:
            while self._answers.read():
                pass
        except (FlexError, OSError):
            return  # stopped, or the tool is gone: its end is told by its exit code

    def wait(self) -> None:
        self._thread.join()

    def check(self) -> None:
        if isinstance(self._failure, UnreadableScriptError):
            raise InvalidDump(f"pg_restore's script cannot be understood: {self._failure}.") from self._failure
        if self._failure is not None:
            raise self._failure


def _cut(what: str) -> ArtefactDamaged:
    seen = Evidence(level=2, check="whole", object="dump", expected="whole", found=what[:300], ok=False)
    return damaged(f"The dump is not whole: {what}.", seen)


@contextmanager
def _script_translated() -> Iterator[None]:
    try:
        yield
    except UnreadableScriptError as error:
        words = str(error)
        if "psql command" in words or "standard_conforming" in words:
            raise InvalidDump(f"The script cannot be taken in: {words}.", hint=NEITHER) from error
        raise _cut(words) from error


@contextmanager
def _archive_translated() -> Iterator[None]:
    """pg_restore that cannot read an archive to its end: the archive is to blame, unless it was built without much."""
    try:
        yield
    except ToolFailed as error:
        if int(error.details.get("exit_code", -1)) < 0:  # killed, which says nothing about the archive
            raise
        words = str(error.details.get("stderr", ""))[-300:]
        if _NOT_BUILT.search(words):
            raise NoFittingClient(f"The installed pg_restore cannot read this archive: {words}") from error
        raise _cut(f"pg_restore says: {words}") from error
