"""The environment the frameworks run in, made when it is first needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import ROOT
from benchmarks.rounds import tell
from benchmarks.unavailable import UnavailableError

WANTED = Path(__file__).with_name("peers.txt")
FOLDER = ROOT / ".venv-peers"


def installed() -> Path:
    """Its Python. Raises `UnavailableError` when the packages cannot be had."""
    python, stamp = FOLDER / "bin" / "python", FOLDER / "installed.txt"
    if stamp.exists() and stamp.read_text() == WANTED.read_text():
        return python
    tell("installing what the benchmarks measure us against")
    shutil.rmtree(FOLDER, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(FOLDER)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(WANTED)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnavailableError(f"the packages of {WANTED.name} cannot be installed: {done.stderr[-500:]}")
    stamp.write_text(WANTED.read_text())
    return python
