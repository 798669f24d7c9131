"""Runs one contestant in a process of its own, and hears how long it took and how much memory it had."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.processes import ROOT, BenchmarkError

STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Trial:
    """`seconds` of the work alone: starting Python is left out. `cpu` seconds are those of the process and of the
    tools it ran, `peak` bytes its own."""

    seconds: float
    peak: int
    cpu: float


@dataclass(slots=True)
class Costs:
    """What contestants took besides time, over their rounds. Processor time tells more on a busy machine."""

    memory: dict[str, int] = field(default_factory=dict)
    """Bytes at most."""
    processor: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each round, without the database server's."""

    def apart(self, name: str, work: Callable[[], Trial]) -> Callable[[], float]:
        """Seconds of a contestant in a process of its own."""

        def measure() -> float:
            trial = work()
            self.memory[name] = max(self.memory.get(name, 0), trial.peak)
            self.processor.setdefault(name, []).append(trial.cpu)
            return trial.seconds

        return measure

    def here(self, name: str, work: Callable[[], object]) -> Callable[[], float]:
        """Seconds of what is done in this process, and by the tools it runs."""

        def measure() -> float:
            began, before = time.perf_counter(), _processor()
            work()
            took = time.perf_counter() - began
            self.processor.setdefault(name, []).append(_processor() - before)
            return took

        return measure

    def columns(self) -> dict[str, dict[str, str]]:
        return {
            "processor": {name: f"{median(seconds):.2f} s" for name, seconds in self.processor.items()},
            "peak memory": {name: f"{peak / 1e6:.0f} MB" for name, peak in self.memory.items()},
        }


def run_apart(module: str, **asked: Any) -> Trial:
    """`python -m MODULE`, which hears what is asked on its standard input: a URL may hold a password."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEXDB_")}
    ended = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(asked, default=str),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    if ended.returncode:
        raise BenchmarkError(f"{module} {asked.get('action')}: {ended.stderr[-2000:]}")
    return Trial(**json.loads(ended.stdout))


def asked() -> dict[str, Any]:
    """In the process apart: what `run_apart` was given."""
    found: dict[str, Any] = json.load(sys.stdin)
    return found


def report(work: Callable[[], object]) -> None:
    """In the process apart: do the work and tell."""
    began, before = time.perf_counter(), _processor()
    work()
    trial = Trial(time.perf_counter() - began, _peak(), _processor() - before)
    print(json.dumps(asdict(trial)))


def _processor() -> float:
    """Seconds so far, of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak() -> int:
    """Not `getrusage`'s on Linux, which remembers the process this one was forked from."""
    if STATUS.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
