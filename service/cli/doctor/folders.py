"""The doctor's look at FLEXDB_HOME and the stores: there, writable, private, with room."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from engines.errors import FlexError
from engines.storage.registry import REMOTE_SCHEMES, open_store
from service.cli.doctor.finding import Finding, fails, ok, warning
from service.cli.output import size
from service.settings import Settings

LITTLE_ROOM = 2 * 10**9
NO_ROOM = 10**8
SECRET_FILES = ("token", "webhook_secret")


def examine_folders(settings: Settings) -> list[Finding]:
    """FLEXDB_HOME, its secret files, every store. Writes nothing but a temporary file that has no name."""
    home = settings.home.absolute()
    found = [_folder("home", "FLEXDB_HOME", home)]
    for name in SECRET_FILES:
        found += _secret_file(home / name)
    url = settings.storage_url.get_secret_value() if settings.storage_url else str(home / "storage")
    found.append(_store("default", url))
    found += [_store(name, given.get_secret_value()) for name, given in sorted(settings.stores.items())]
    return found


def _folder(area: str, name: str, folder: Path) -> Finding:
    if not folder.exists():
        return _absent(area, name, folder)
    if not folder.is_dir():
        return fails(area, name, f"{folder} is not a folder", "Move the file away, or name another folder.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return fails(
            area,
            name,
            f"{folder} cannot be written to ({error.strerror})",
            "Give this user the folder, or name another.",
        )
    if (opened := stat.S_IMODE(folder.stat().st_mode)) & 0o022:
        return warning(area, name, f"{folder} can be written to by others (mode {opened:o})", f"chmod 700 {folder}")
    return _room(area, name, folder)


def _absent(area: str, name: str, folder: Path) -> Finding:
    above = next(parent for parent in folder.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return fails(
            area,
            name,
            f"{folder} is not there and cannot be made in {above}",
            "Make it for this user, or name another.",
        )
    return _room(area, name, above, f"{folder} is not there yet; the first start makes it")


def _room(area: str, name: str, folder: Path, detail: str = "") -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{detail or f'{folder} is writable'}, {size(free)} free"
    mend = "Free space, or name a folder on a larger disk."
    if free < NO_ROOM:
        return fails(area, name, text, mend)
    return warning(area, name, text, mend) if free < LITTLE_ROOM else ok(area, name, text)


def _secret_file(path: Path) -> list[Finding]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [
            fails(
                "home",
                path.name,
                f"{path} cannot be looked at ({error.strerror})",
                "Run this as the service's user.",
            )
        ]
    if mode & 0o077:
        return [warning("home", path.name, f"{path} can be read by others (mode {mode:o})", f"chmod 600 {path}")]
    if not os.access(path, os.R_OK):
        return [fails("home", path.name, f"{path} cannot be read by this user", "Run this as the service's user.")]
    return [ok("home", path.name, f"{path} is there, mode {mode:o}")]


def _store(name: str, url: str) -> Finding:
    try:
        store = open_store(name, url)
        if url.partition("://")[0] not in REMOTE_SCHEMES:
            return _folder("storage", name, Path(unquote(urlsplit(store.url).path)))
        next(iter(store.list("flexdb-doctor/")), None)
    except FlexError as error:
        return fails("storage", name, error.message, error.hint)
    return ok("storage", name, f"{store.url} answers")
