"""The README's lines for records and calculations do what they say, on ports that are free here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.service_process import free_port, until

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().split("## Records and calculations", 1)[1].split("\n## ", 1)[0]


@pytest.fixture
def script(tmp_path: Path) -> Iterator[str]:
    block = re.search(r"```console\n(.*?)```", SECTION, re.DOTALL)
    assert block is not None
    text = "\n".join(line.removeprefix("$ ") for line in block[1].splitlines())
    port = str(free_port())
    for written, here in (
        (".venv/bin/python", sys.executable),
        (".venv/bin/flexdb", str(Path(sys.executable).with_name("flexdb"))),
        ("5000", str(free_port())),
        ("8080", port),
        (" &", f" >> {tmp_path}/log 2>&1 & echo $! >> {tmp_path}/pids; sleep 0"),
        ("/readyz;", "/readyz > /dev/null;"),
    ):
        assert written in text, f"the README no longer says {written!r}"
        text = text.replace(written, here)
    yield f"export FLEXDB_URL=http://127.0.0.1:{port}\n{text}"
    for pid in (tmp_path / "pids").read_text().split():
        os.kill(int(pid), 15)
    until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in (tmp_path / "pids").read_text().split()), 40)


def test_customers_are_loaded_shown_and_a_number_is_calculated(script: str, tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("FLEXDB_")}
    home = {"FLEXDB_HOME": str(tmp_path / "var"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=own | home,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "21" in done.stdout
    assert "93326215443944152681699238856266700490715968264381621468592963895217" in done.stdout.replace("\n", "")
