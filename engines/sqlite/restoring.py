"""Restoring: a new file beside the target, checked, then put in its place."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

from engines.artefacts.reading import Artefact
from engines.base import BackupOptions, Restored, RestoreOptions
from engines.errors import AccessDenied, TargetMissing
from engines.run import Run
from engines.sqlite import cutting, names, proving, structure, switching
from engines.sqlite.connection import connect, existing, may_write, translating
from engines.sqlite.copying import FORMAT, library
from engines.sqlite.selection import select
from engines.sqlite.unpacking import stored, unpacked


def restore(artefact: Artefact, path: Path, options: RestoreOptions, run: Run, *, busy_seconds: float) -> Restored:
    """As `RestoreEngine.restore` promises it, the database being the file at `path`."""
    replace, file = options.mode == "replace", stored(artefact)
    as_stored = file.format == FORMAT and not options.include
    again = run.attempt > 1
    if path.exists():
        existing(path)
    check_writable(path.parent)
    if again and as_stored and switching.holds(path, file.raw_bytes, file.raw_sha256, run):
        return _restored_before(path, run)
    if not replace and (as_stored or not again):
        switching.check_empty(path, run, busy_seconds)
    new = path.parent / names.new_name(run.job_id, run.token)
    try:
        notes = _build(artefact, new, options, run)
        with proving.dumped(new, run) as connection:
            proving.check_integrity(connection, run)
            objects = structure.counted(connection, run)
        if not options.include:
            proving.check_objects(artefact, objects)
        if again and not as_stored and switching.holds(path, new.stat().st_size, _sha256(new, run), run):
            return _restored_before(path, run)
        notes += switching.put_in_place(new, path, run, replace=replace, busy_seconds=busy_seconds)
    finally:
        cutting.remove(new)
    return Restored(str(path), objects, notes, library())


def check_writable(folder: Path) -> None:
    """Raises `TargetMissing` or `AccessDenied` for a folder that files cannot be made in, as far as can be known."""
    if not folder.is_dir():
        raise TargetMissing(f"There is no folder {folder}.", hint="Make it, or correct the path.")
    if not may_write(folder):
        raise AccessDenied(
            f"No file can be made in {folder}.", hint="Give the service's user the right to write that folder."
        )


def _build(artefact: Artefact, new: Path, options: RestoreOptions, run: Run) -> tuple[str, ...]:
    """Make the new file; notes for the user."""
    if not options.include:
        unpacked(artefact, new.parent, new.name, run)
        return ()
    whole = unpacked(artefact, run.workspace, "whole.sqlite", run)
    try:
        with proving.dumped(whole, run) as connection:
            proving.check_integrity(connection, run)
            selection = select(connection, BackupOptions(include=options.include), "the backup")
        with translating(new, run):
            left_out = cutting.reduce(whole, new, selection, run)
    finally:
        cutting.remove(whole)
    return (f"Left out, because they read what was not restored: {', '.join(left_out)}.",) if left_out else ()


def _sha256(path: Path, run: Run) -> str:
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            digest.update(data)
            done += len(data)
            run.progress("comparing", done, total)
    return digest.hexdigest()


def _restored_before(path: Path, run: Run) -> Restored:
    """An earlier attempt of this job switched and died before it could say so."""
    with translating(path, run), closing(connect(path, "mode=ro", run, proving.SHARED_LOCK_SECONDS)) as connection:
        objects = structure.counted(connection, run)
    note = "An earlier attempt of this job had put it in place; it is byte for byte what was to be restored."
    return Restored(str(path), objects, (note,), library())
