"""The demo as its user runs it: to the end, and interrupted."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]


async def start(folder: Path) -> asyncio.subprocess.Process:
    """The demo with `folder` as its temporary folder."""
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "examples/demo.py",
        cwd=ROOT,
        env=environment | {"TMPDIR": str(folder), "FLEXDB_TOKEN": "not-for-the-demo", "FLEXDB_PORT": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_the_demo_runs_to_its_end_and_leaves_nothing(tmp_path: Path) -> None:
    process = await start(tmp_path)
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, text
    assert "200,000 compared one by one, all identical" in text
    assert "artefact_damaged" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demo_ends_everything_it_started(tmp_path: Path, number: signal.Signals) -> None:
    process = await start(tmp_path)
    assert process.stdout is not None
    seen = ""
    async with asyncio.timeout(60):
        while "accepted, on disk" not in seen:
            line = await process.stdout.readline()
            assert line, seen
            seen += line.decode()
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        rest, _ = await process.communicate()
    assert process.returncode == 130, seen + rest.decode()
    assert children
    assert not [child for child in children if child.is_running()]
    assert list(tmp_path.iterdir()) == []
