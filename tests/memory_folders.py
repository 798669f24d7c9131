"""Folders for the data of servers that end with the tests: in memory where there is room, for disks are slow."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MEMORY = Path("/dev/shm")
PREFIX = "flexdb-data-"
ROOM = 4 * 2**30
"""Free bytes there and, twice as many, in the machine's memory: containers often have 64 MB there, or little at all."""


@contextmanager
def data_folder(home: Path) -> Iterator[Path]:
    """`home / "data"`, an empty folder, gone with the context; a link to one in memory where there is room.

    Making and dropping a database is thousands of small files: on a disk they cost eight times the processor time.
    """
    data = home / "data"
    if not roomy():
        data.mkdir()
        yield data
        return
    _sweep()
    kept = Path(tempfile.mkdtemp(prefix=PREFIX, dir=MEMORY))
    held = os.open(kept, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)  # ours as long as this process lives: see `_sweep`
        (kept / "data").mkdir()
        owner = home.stat()
        for folder in (kept, kept / "data"):
            os.chown(folder, owner.st_uid, owner.st_gid)
        data.symlink_to(kept / "data")
        yield data
    finally:
        os.close(held)
        shutil.rmtree(kept, ignore_errors=True)


def roomy() -> bool:
    """Whether data can be kept in memory on this machine."""
    try:
        free = shutil.disk_usage(MEMORY).free
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return False
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    return free >= ROOM and available >= 2 * ROOM


def _sweep() -> None:
    """Remove what a run left that was killed: memory is not to be had back otherwise."""
    for left in MEMORY.glob(f"{PREFIX}*"):
        with suppress(OSError):
            held = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if any(left.iterdir()):  # without, it is one that another process is about to lock
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(held)
