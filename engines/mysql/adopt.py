"""Taking in a dump that somebody made by hand with mysqldump or mariadb-dump."""

from __future__ import annotations

import re
from collections.abc import Iterable

from engines.artefacts.manifest import Evidence
from engines.artefacts.reading import damaged
from engines.artefacts.writing import ArtefactWriter
from engines.base import Dump, Source
from engines.errors import InvalidDump
from engines.mysql.allowed import Guard
from engines.mysql.contents import HEADS, Contents, Reader, meant, shown
from engines.mysql.dump import FORMAT
from engines.mysql.script import Piece, Statement, UnreadableScriptError
from engines.run import Run

CHUNK_BYTES = 1 << 20
_SANDBOX = re.compile(rb"\s*/\*M?!999999\\- enable the sandbox mode \*/[^\n]*\n")
_DATABASE = re.compile(rb"-- Host:[^\n]*[ \t]Database: ([^\r\n]+)")
_SERVER = re.compile(rb"-- Server version[ \t]+(\S+)")
CONSISTENCY = "Made by hand: what moment it shows depends on the options it was made with. Rows are those in the dump."


def recognise(head: bytes) -> str | None:
    sandbox = _SANDBOX.match(head)
    begins = head[sandbox.end() if sandbox else 0 :].lstrip()
    return FORMAT if begins.startswith(HEADS) else None


def adopt(source: Source, out: ArtefactWriter, run: Run) -> Dump:
    """Raises `ArtefactDamaged` for a dump that is not whole, `InvalidDump` for one that restores only into the
    databases it names, or that does something else than these programs' dumps."""
    reader, guard, head = Reader(), Guard(), b""
    with out.file("dump.sql", FORMAT) as sink:
        try:
            while data := source.read(CHUNK_BYTES):
                head = (head + data)[: 1 << 16] if len(head) < 1 << 16 else head
                sink.write(data)
                _look_at(reader.pieces(data), guard)
                run.progress("reading", sink.raw_bytes)
            _look_at(reader.rest(), guard)
            contents = reader.contents
        except UnreadableScriptError as error:
            seen = Evidence(level=2, check="script is whole", expected="whole", found=str(error), ok=False)
            raise damaged(f"The dump is not whole: {error}.", seen) from error
        _refuse_several(contents)
    return _described(contents, head, out)


def _look_at(pieces: Iterable[Piece], guard: Guard) -> None:
    for piece in pieces:
        if not isinstance(piece, Statement) or meant(piece).meaning not in {"use", "database"}:  # told of below
            guard.look_at(piece)


def _refuse_several(contents: Contents) -> None:
    if contents.databases:
        names = ", ".join(sorted(shown(name) for name in contents.databases)[:5])
        raise InvalidDump(
            f"The dump names the databases it goes into ({names}), so it cannot be restored anywhere else.",
            hint="Make it of one database, without --databases and --all-databases, so that it holds no CREATE "
            "DATABASE and no USE.",
        )


def _described(contents: Contents, head: bytes, out: ArtefactWriter) -> Dump:
    found, source = _SERVER.search(head), _DATABASE.search(head)
    version = found[1].decode(errors="replace") if found else "unknown"
    client = "mariadb" if b"MariaDB dump" in head else "mysql"
    exact = not contents.uncounted
    lines = [f"zstd -d {file.name}" for file in out.files if file.compression == "zstd"]
    name = out.files[0].name.removesuffix(".zst")
    return Dump(
        server_version=version,
        objects=contents.objects(counted=exact),
        counts="exact" if exact else "none",
        consistency=CONSISTENCY,
        restore_by_hand=(*lines, f"{client} --host=HOST --user=USER --password --binary-mode DATABASE < {name}"),
        options={
            "longest_statement": contents.longest,
            "definers": sorted(contents.definers),
            "source_database": source[1].decode(errors="replace") if source else "",
            **({"whole": False} if contents.lacks_half else {}),
        },
    )
