"""What an upload sends: a file as it is, or a folder as one uncompressed tar stream, block by block."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from service.cli.exits import CommandError

BLOCK_BYTES = 1 << 20
FIRST = "toc.dat"
"""What pg_dump's folders are recognised by; it leads."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Something to send, whose length is known before. `blocks` raises `CommandError` when it changes meanwhile."""

    length: int
    """Bytes in all blocks."""
    blocks: Callable[[], Iterator[bytes]]


def file_parcel(path: Path) -> Parcel:
    """Raises `CommandError` for what is no regular file, or cannot be read."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise CommandError(f"{path} is no file.", "Name the file or the folder that the dump tool wrote.")
        if not os.access(path, os.R_OK):
            raise CommandError(f"{path} cannot be read.", "Give this user the right to read it.")
    except OSError as error:
        raise _unreadable(path, error) from error
    return Parcel(found.st_size, lambda: _contents(path, found.st_size))


def folder_parcel(folder: Path) -> Parcel:
    """Every file below the folder, sorted, under its name relative to it.

    Raises `CommandError` for an empty folder, and for one that holds anything but plain files.
    """
    members = [(path, _header(folder, path)) for path in _files(folder)]
    if not members:
        raise CommandError(f"{folder} holds no file.", "Name the folder that the dump tool wrote.")
    sizes = [len(header.head) + header.size + _padding(header.size) for _, header in members]
    end = 2 * tarfile.BLOCKSIZE
    end += -(sum(sizes) + end) % tarfile.RECORDSIZE

    def blocks() -> Iterator[bytes]:
        for path, header in members:
            yield header.head
            yield from _contents(path, header.size)
            if padding := _padding(header.size):
                yield bytes(padding)
        yield bytes(end)

    return Parcel(sum(sizes) + end, blocks)


@dataclass(frozen=True, slots=True)
class _Header:
    head: bytes
    size: int


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE


def _header(folder: Path, path: Path) -> _Header:
    """Nothing of its owner is told."""
    name = path.relative_to(folder).as_posix()
    found = path.lstat()
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = found.st_size, int(found.st_mtime), 0o600
    return _Header(member.tobuf(tarfile.PAX_FORMAT), found.st_size)


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for where, folders, names in os.walk(folder, onerror=_cannot_list):
        for name in (*folders, *names):
            path = Path(where, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found.append(path)
            elif not stat.S_ISDIR(mode):
                raise CommandError(
                    f"{path} is no plain file.", "A dump's folder holds plain files only; links are not followed."
                )
    return sorted(found, key=lambda path: (path != folder / FIRST, path.relative_to(folder).parts))


def _cannot_list(error: OSError) -> None:
    raise CommandError(f"{error.filename} cannot be listed ({error.strerror}).") from error


def _contents(path: Path, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes."""
    left = size
    try:
        with path.open("rb") as file:
            while left and (block := file.read(min(left, BLOCK_BYTES))):
                left -= len(block)
                yield block
            more = file.read(1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if left or more:
        raise CommandError(f"{path} changed while it was read.", "Wait until whoever writes it has ended.")


def _unreadable(path: Path, error: OSError) -> CommandError:
    return CommandError(f"{path} cannot be read ({error.strerror}).")
