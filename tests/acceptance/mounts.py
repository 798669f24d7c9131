"""File systems that only one service sees: small ones, read-only ones. The machine itself is left as it is."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

OWN_MOUNTS = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")


@lru_cache(maxsize=1)
def can_mount() -> bool:
    """Whether this user may have a mount namespace of its own here."""
    try:
        mount = "mount -t tmpfs -o size=1m tmpfs /mnt"
        return subprocess.run([*OWN_MOUNTS, "sh", "-c", mount], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def small(folder: Path, megabytes: int) -> tuple[str, ...]:
    """Wrapper for a program to which `folder` is a file system of that size, empty at its start."""
    folder.mkdir(parents=True, exist_ok=True)
    return _within(f'mount -t tmpfs -o size={megabytes}m,mode=0700 tmpfs "$0"', folder)


def read_only(folder: Path) -> tuple[str, ...]:
    """Wrapper for a program that cannot write to `folder`, even as root."""
    folder.mkdir(parents=True, exist_ok=True)
    return _within('mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"', folder)


def _within(mount: str, folder: Path) -> tuple[str, ...]:
    return (*OWN_MOUNTS, "sh", "-c", f'{mount} && exec "$@"', str(folder))
