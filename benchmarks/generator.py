"""Runs the load generator as a program of its own, so that it does not share an interpreter with anybody."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.load import Load, Report
from benchmarks.processes import BenchmarkError

HERE = Path(__file__).parent


def generated(name: str, load: Load) -> Report:
    """Send it. Raises `BenchmarkError` in the words of the generator; `name` is what it was sent to."""
    done = subprocess.run(
        [sys.executable, str(HERE / "load.py")],
        input=json.dumps(asdict(load)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"{name}: {done.stderr[-2000:]}")
    return Report(**json.loads(done.stdout))
