"""From an artefact to a database file, whichever of the two formats it has."""

from __future__ import annotations

import shutil
from pathlib import Path

from engines.artefacts.manifest import Evidence, StoredFile
from engines.artefacts.reading import Artefact, damaged
from engines.errors import InvalidDump, StorageFull, TargetMissing
from engines.run import Run
from engines.sqlite import script
from engines.sqlite.adopting import SQL_FORMAT
from engines.sqlite.copying import FORMAT


def stored(artefact: Artefact) -> StoredFile:
    """The file that holds the database; raises `ArtefactDamaged` when the manifest lists none."""
    for file in artefact.manifest.files:
        if file.format == SQL_FORMAT:
            return file
    return artefact.file(FORMAT)


def unpacked(artefact: Artefact, folder: Path, name: str, run: Run) -> Path:
    """A database file of mode 0600 in `folder`, made of stored bytes that were wholly checked on the way.

    Nothing stays behind on failure. Raises `ArtefactDamaged`, `StorageFull`, `TargetMissing` for a missing folder.
    """
    file = stored(artefact)
    check_room(known_size(file), folder)
    if file.format == FORMAT:
        return artefact.stage(file, folder, run, name)
    path = folder / name
    with artefact.open_raw(file, run, "carrying out") as source:
        try:
            script.build(source, path, run)
        except InvalidDump as error:  # it was a dump when it was taken in
            seen = Evidence(level=2, check="sql script", object=file.name, found=error.message, ok=False)
            raise damaged(f"{file.name} is damaged: {error.message}", seen) from error
    return path


def known_size(file: StoredFile) -> int:
    """Bytes of the database it holds; 0 for an SQL dump, which does not tell."""
    return file.raw_bytes if file.format == FORMAT else 0


def check_room(needed: int, folder: Path) -> None:
    """Raises `StorageFull`, or `TargetMissing` when there is no such folder."""
    try:
        free = shutil.disk_usage(folder).free
    except FileNotFoundError as error:
        raise TargetMissing(f"There is no folder {folder}.", hint="Make it, or correct the path.") from error
    if needed > free:
        raise StorageFull(f"{needed} bytes are needed in {folder}, {free} are free.")
