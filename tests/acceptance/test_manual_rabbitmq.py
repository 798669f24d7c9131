"""The manual's program for RabbitMQ works as it is printed, and prints what the manual says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.acceptance.service_process import RunningService, until

MANUAL = (Path(__file__).parents[2] / "docs" / "user-manual.md").read_text()


def test_the_manuals_program_gets_its_answer(tmp_path: Path, rabbitmq_url: str, amqp_name: str) -> None:
    section = MANUAL.split("## RabbitMQ", 1)[1]
    found = re.search(r"```python\n(.*?)```\n\nprints `(.*?)`", section, re.DOTALL)
    assert found is not None
    program = found[1].replace('"flexdb.requests"', f'"{amqp_name}.requests"')
    assert amqp_name in program
    service = RunningService(
        tmp_path, settings={"FLEXDB_AMQP_URL": rabbitmq_url, "FLEXDB_AMQP_NAME": amqp_name}
    ).start()
    try:
        until(lambda: b"amqp_consuming" in service.log.read_bytes())
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PATH": os.environ["PATH"], "FLEXDB_AMQP_URL": rabbitmq_url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout.strip()) == (0, found[2]), done.stderr
    finally:
        service.close()
