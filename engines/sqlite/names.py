"""Which files a URL, an `into` or a job of FlexDB names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from engines.errors import InvalidTarget

SIDE_FILES = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database; see https://www.sqlite.org/tempfiles.html."""
SCHEME = "sqlite:///"
LONGEST_NAME = 200
_OURS = re.compile(
    r"(?:\.flexdb_(?:new|scratch)_(?P<job>.+)_(?P<token>\d+)|flexdb_(?:new|scratch)_(?P<plain>[0-9A-Za-z-]+?))"
    r"(?:-wal|-shm|-journal)?"
)


def database_file(url: str) -> Path:
    """The real path of the file a URL names; need not exist. Raises `InvalidTarget`.

    `sqlite:////abs/path` and `sqlite:///relative/path`, as SQLAlchemy writes them, percent-encoded. Three
    slashes before a path whose folder is found only from the root are read as four.
    """
    if url[: len(SCHEME)].lower() != SCHEME:
        raise InvalidTarget(
            "A SQLite URL begins with three slashes, or four for an absolute path.",
            hint="Write sqlite:////absolute/path.db or sqlite:///relative/path.db.",
        )
    path, _, query = url[len(SCHEME) :].partition("?")
    path = unquote(path)
    if query:
        raise InvalidTarget("A SQLite URL takes no options.", hint="Leave out what follows the question mark.")
    if not path or path.startswith(":memory:") or path.endswith("/"):
        raise InvalidTarget("The SQLite URL names no file; databases in memory cannot be worked with.")
    if "\0" in path:
        raise InvalidTarget("The SQLite URL names a path with a NUL character.")
    return Path(os.path.realpath(_rooted(path)))


def _rooted(path: str) -> str:
    folder = os.path.dirname(path)  # noqa: PTH120  it is text here, pathlib would lose a doubled slash
    if path.startswith("/") or not folder or Path(folder).is_dir() or not Path("/", folder).is_dir():
        return path
    return "/" + path


def file_beside(database: Path, name: str) -> Path:
    """The file `name` in the folder of `database`; raises `InvalidTarget` for anything but a plain name."""
    plain = "/" not in name and "\\" not in name and name.isprintable() and not name.startswith((".", "-"))
    if not name.strip() or not plain or len(name.encode()) > LONGEST_NAME:
        raise InvalidTarget(
            "The name of the target database is not a plain file name.",
            hint="Name a file beside the connection's own: no separators, no leading dot.",
        )
    if name.endswith(SIDE_FILES):
        raise InvalidTarget(f"Names ending in {', '.join(SIDE_FILES)} belong to SQLite.")
    path = database.parent / name
    if path.is_symlink():
        raise InvalidTarget(f"{name} is a symbolic link, which is not followed.")
    return path


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file that a job of FlexDB left beside a database."""

    path: Path
    job_id: str


def new_name(job_id: str, token: int) -> str:
    """The hidden name of a database while it is being restored."""
    return f".flexdb_new_{job_id}_{token}"


def own_files(folder: Path) -> Iterator[OwnFile]:
    """What restores and rehearsals that ended early left in `folder`; nothing when the folder cannot be read."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for name in names:
        if match := _OURS.fullmatch(name):
            yield OwnFile(folder / name, match["job"] or match["plain"])


def artefact_name(database: Path) -> str:
    """A tame name for the dump's file, after the database's."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", database.stem).strip("._-")[:100]
    return f"{stem or 'database'}.sqlite"
