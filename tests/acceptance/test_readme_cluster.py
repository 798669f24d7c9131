"""The README's lines for growing beyond one machine do what they say, with this machine's servers in their place."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.service_process import free_port, until
from tests.conftest import FreshDatabase

ROOT = Path(__file__).parents[2]
FLEXDB = Path(sys.executable).with_name("flexdb")
SECTION = (ROOT / "README.md").read_text().split("## Grow beyond one machine", 1)[1].split("\n## ", 1)[0]


def commands() -> list[str]:
    block = re.search(r"```console\n(.*?)```", SECTION, re.DOTALL)
    assert block is not None
    return [line.removeprefix("$ ") for line in block[1].splitlines()]


@pytest.fixture
def environment(
    tmp_path: Path, postgres15_url: str, fresh_database: FreshDatabase, rabbitmq_url: str, amqp_name: str
) -> dict[str, str]:
    """What differs here: addresses of the servers, a name of our own in RabbitMQ, a folder for an object store."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("FLEXDB_")}
    return own | {
        "LEDGER": fresh_database(postgres15_url),
        "AMQP": rabbitmq_url,
        "STORE": str(tmp_path / "store"),
        "FLEXDB_AMQP_NAME": amqp_name,
    }


@pytest.fixture
def script(tmp_path: Path) -> Iterator[str]:
    first, second = free_port(), free_port()
    text = "\n".join(commands())
    for written, here in (
        ("postgresql://flexdb:password@127.0.0.1:5432/flexdb", '"$LEDGER"'),
        ("'s3://backups/flexdb'", '"$STORE"'),
        ("amqp://guest:guest@127.0.0.1:5672/", '"$AMQP"'),
        (".venv/bin/flexdb", str(FLEXDB)),
        ("8080", str(first)),
        ("8081", str(second)),
        (" &", f" >> {tmp_path}/log 2>&1 & echo $! >> {tmp_path}/pids; sleep 0"),
    ):
        assert written in text, f"the README no longer says {written!r}"
        text = text.replace(written, here)
    yield text.replace("/readyz;", "/readyz > /dev/null;").replace("send check", "send check --json")
    for pid in (tmp_path / "pids").read_text().split():
        os.kill(int(pid), 15)
    until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in (tmp_path / "pids").read_text().split()), 40)


def test_ten_lines_make_two_replicas_that_share_their_jobs(
    script: str, environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    event = json.loads(done.stdout)
    assert event["type"] == "check.completed" and event["data"]["status"] == "succeeded"
    log = tmp_path / "log"
    until(lambda: log.read_text().count('"amqp_consuming"') == 2)
    assert log.read_text().count("ledger_opened") == 2
