"""Objects as files in a local folder: whole and on disk before they can be seen."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from engines.durability import sync
from engines.errors import ObjectMissing, StorageFailed, StorageFull
from engines.storage.base import Store, StoredObject
from engines.storage.keys import key_parts, new_key_parts

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_PART = re.compile(r"\..+\.part-[0-9a-f]{16}")
_MAKING_FOLDERS = 100
"""How often folders are made again when a deletion beside us takes them away for being empty."""


class LocalStore(Store):
    """Temporary name in the same folder, write, fsync, rename, fsync of the folder (and of new parents).

    Folders get mode 0700, files 0600. Symbolic links inside the store are not followed.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root.absolute()
        self.url = self.root.as_uri()

    @contextmanager
    def writing(self, key: str) -> Iterator[LocalWriter]:
        path = self.root.joinpath(*new_key_parts(key))
        part, descriptor = self._new_part(path, key)
        try:
            try:
                yield LocalWriter(descriptor, self.name, key)
                with self._translating(key):
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._publish(part, path, key)
        except BaseException:
            with suppress(OSError):  # the first error matters more; the sweep removes what stayed
                part.unlink(missing_ok=True)
            self._prune(path.parent)
            raise

    def open(self, key: str) -> BinaryIO:
        path = self._existing(key)
        with self._translating(key):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            return os.fdopen(descriptor, "rb")

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        return (found for found in self._walk(prefix) if not found.key.rpartition("/")[2].startswith("."))

    def unfinished(self) -> Iterator[StoredObject]:
        """Temporary files of writes that did not end, or have not ended yet; look at their age or job."""
        return (found for found in self._walk("") if _PART.fullmatch(found.key.rpartition("/")[2]))

    def delete(self, key: str) -> None:
        try:
            path = self._existing(key)
        except ObjectMissing:
            return
        with self._translating(key), suppress(FileNotFoundError):
            path.unlink()
            sync(path.parent)
        self._prune(path.parent)

    def size(self, key: str) -> int:
        with self._translating(key):
            return self._existing(key).lstat().st_size

    def free_bytes(self) -> int | None:
        with self._translating(""):
            known = os.statvfs(_nearest(self.root))
        return known.f_bavail * known.f_frsize

    def local_path(self, key: str) -> Path | None:
        return self._existing(key)

    def _existing(self, key: str) -> Path:
        """The regular file of a key, reached through real folders only; raises `ObjectMissing`."""
        path, parts = self.root, key_parts(key)
        with self._translating(key):
            for number, part in enumerate(parts, start=1):
                path = path / part
                mode = path.lstat().st_mode
                if not (stat.S_ISREG(mode) if number == len(parts) else stat.S_ISDIR(mode)):
                    raise ObjectMissing(f"{key} is no regular file in the store {self.name!r}.")
        return path

    def _new_part(self, path: Path, key: str) -> tuple[Path, int]:
        part = path.with_name(f".{path.name}.part-{secrets.token_hex(8)}")
        with self._translating(key):
            for left in reversed(range(_MAKING_FOLDERS)):
                try:
                    self._make_folders(path.parent)
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    return part, os.open(part, flags, 0o600)
                except FileNotFoundError:
                    if not left:
                        raise
        raise AssertionError("the last round returns or raises")

    def _make_folders(self, folder: Path) -> None:
        inside = self.root in folder.parents
        if _is_folder(folder, follow=not inside):
            return
        self._make_folders(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        sync(folder.parent)

    def _publish(self, part: Path, path: Path, key: str) -> None:
        with self._translating(key):
            existed = path.exists()
            part.rename(path)
            try:
                sync(path.parent)
            except OSError:
                if not existed:  # one that was there before is not lost over a failing sync
                    path.unlink(missing_ok=True)
                raise

    def _prune(self, folder: Path) -> None:
        """Remove folders that are empty now; best effort, others may be writing into them."""
        while folder != self.root and self.root in folder.parents:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def _walk(self, prefix: str) -> Iterator[StoredObject]:
        start = self.root.joinpath(*key_parts(prefix.rpartition("/")[0])) if "/" in prefix else self.root
        if not _is_folder(start, follow=True):
            return
        for folder, folders, names in os.walk(start, onerror=self._cannot_list):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and (found := _seen(path, key)):
                    yield found

    def _cannot_list(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # deleted beside us: nothing to list
            raise StorageFailed(f"The store {self.name!r} cannot be listed: {error.strerror}.") from error

    @contextmanager
    def _translating(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _translated(error, self.name, key) from error


class LocalWriter:
    """Writes one temporary file."""

    def __init__(self, descriptor: int, store: str, key: str) -> None:
        self._descriptor, self._store, self._key = descriptor, store, key

    def write(self, data: bytes, /) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise _translated(error, self._store, self._key) from error


def _translated(error: OSError, store: str, key: str) -> StorageFailed:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return ObjectMissing(f"{key} is not in the store {store!r}.")
    if error.errno in FULL:
        return StorageFull(f"No space left in the store {store!r} for {key}.")
    if error.errno in FORBIDDEN:
        return StorageFailed(
            f"The store {store!r} does not let {key} be used: {error.strerror}.",
            hint="Give the service's user read and write access to the storage folder.",
        )
    if error.errno == errno.ELOOP:
        return StorageFailed(f"{key} in the store {store!r} is a symbolic link, which is not followed.")
    return StorageFailed(f"The store {store!r} failed with {key}: {error.strerror}.")


def _is_folder(path: Path, *, follow: bool) -> bool:
    """Raises `NotADirectoryError` when something else is there."""
    try:
        mode = (path.stat() if follow else path.lstat()).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if not stat.S_ISDIR(mode):
        raise FileExistsError(errno.EEXIST, "a file is where a folder should be", str(path))
    return True


def _nearest(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _seen(path: Path, key: str) -> StoredObject | None:
    """None when it has just gone, or is no regular file."""
    try:
        known = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(known.st_mode):
        return None
    return StoredObject(key, known.st_size, datetime.fromtimestamp(known.st_mtime, UTC))
