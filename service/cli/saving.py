"""A file that appears whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.cli.exits import CommandError, Exit


class Damaged(CommandError):
    """What came is not what the manifest promises."""

    code = Exit.FAILED


@contextmanager
def save_checked(path: Path, size: int, sha256: str, *, force: bool = False) -> Iterator[Callable[[bytes], None]]:
    """Yields a `write`. The file gets its name at the end when size and SHA-256 (hex) match, mode 0600.

    Raises `Damaged` otherwise, `CommandError` when the disk refuses or the file exists without `force`.
    """
    hasher, count = hashlib.sha256(), 0

    with save_whole(path, force=force) as save:

        def write(chunk: bytes) -> None:
            nonlocal count
            save(chunk)
            hasher.update(chunk)
            count += len(chunk)

        yield write
        _check(path, (count, hasher.hexdigest()), (size, sha256))


@contextmanager
def save_whole(path: Path, *, force: bool = False) -> Iterator[Callable[[bytes], None]]:
    """Yields a `write`. The file gets its name at the end, mode 0600, and nothing of it stays when that is not reached.

    Raises `CommandError` when the disk refuses or the file exists without `force`.
    """
    if path.exists() and not force:
        raise CommandError(f"{path} exists.", "Choose another name with -o, or replace it with --force.")
    try:
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise _refused(path, error) from error

    def write(chunk: bytes) -> None:
        try:
            file.write(chunk)
        except OSError as error:
            raise _refused(path, error) from error

    try:
        with os.fdopen(descriptor, "wb") as file:
            yield write
            _settle(file.fileno(), file.flush, path)
        Path(unfinished).rename(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def _check(path: Path, found: tuple[int, str], promised: tuple[int, str]) -> None:
    if found != promised:
        raise Damaged(
            f"What came for {path} is not what was stored: {found[0]} bytes of SHA-256 {found[1]}, "
            f"the manifest says {promised[0]} bytes of {promised[1]}. Nothing was kept.",
            "Try again; when it stays so, run `flexdb verify` on the backup.",
        )


def _settle(descriptor: int, flush: Callable[[], None], path: Path) -> None:
    try:
        flush()
        os.fsync(descriptor)
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> CommandError:
    return CommandError(f"{path} cannot be written ({error.strerror}).", "Choose another place with -o.")
