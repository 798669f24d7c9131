"""Dumping what was restored once more, and holding it against the stored dump, object by object.

Row counts do not tell a changed value. The same program writes the same rows and definitions in the same way, so
a digest per object over both scripts shows whether all of it came back. Another release of the program, or another
server, may write the same things otherwise: then nothing is compared.
"""

from __future__ import annotations

import re

from engines.artefacts.manifest import Evidence, Manifest
from engines.base import BackupOptions
from engines.command import reading
from engines.mysql.address import Address
from engines.mysql.catalog import Server
from engines.mysql.clients import Program
from engines.mysql.contents import Contents, Reader, shown
from engines.mysql.dump import command
from engines.mysql.session import quoted, tools_translated
from engines.run import Run

Digests = dict[tuple[str, str], str]
_SWITCH = re.compile(rb"(\sON\s+COMPLETION\s+(?:NOT\s+)?PRESERVE\s+)(?:ENABLE|DISABLE)\b", re.IGNORECASE)


def comparable(manifest: Manifest, server: Server, program: Program) -> bool:
    """Whether equal things must give equal scripts."""
    tool = manifest.tool or {}
    return tool.get("version") == program.version and manifest.server_version == server.version


def normal(database: str) -> Contents:
    """Contents that take a digest per object, without what a rehearsal changes by intention."""
    own = f"{quoted(database)}.".encode()

    def without(kind: str, text: bytes) -> bytes:
        text = text.replace(own, b"")
        return _SWITCH.sub(rb"\1", text) if kind == "event" else text

    return Contents(digests={}, normalised=without)


def dumped_again(address: Address, program: Program, content: str, run: Run) -> Contents:
    """What is in a database now, as its dump tells it; raises what a backup raises."""
    reader = Reader(normal(address.database))
    options = BackupOptions(content="schema" if content == "schema" else "all")
    with address.options_file(run.workspace, mariadb=program.mariadb) as file:
        dumping = command(program, file, run.workspace, address, options)
        with tools_translated(), reading(dumping, run) as output:
            done = 0
            for data in output.chunks():
                reader.feed(data)
                done += len(data)
                run.progress("comparing", done)
    return reader.finish()


def compared(stored: Contents, again: Contents) -> list[Evidence]:
    """Evidence per object that both hold; what only one holds was found by its name before."""
    before, now = _digests(stored), _digests(again)
    return [
        Evidence(
            level=3,
            check="content",
            object=shown(key[1]),
            expected=before[key],
            found=now[key],
            ok=before[key] == now[key],
        )
        for key in sorted(before.keys() & now.keys())
    ]


def _digests(contents: Contents) -> Digests:
    return {key: found.hexdigest()[:32] for key, found in (contents.digests or {}).items()}
