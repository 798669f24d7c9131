"""Every shell example of the manual works as it is printed, and is answered as the manual says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.customer_source import customers
from tests.acceptance.service_process import RunningService

MANUAL = (Path(__file__).parents[2] / "docs" / "user-manual.md").read_text()
PRINTED_SOURCE = "http://127.0.0.1:5000/api/customers"
EXAMPLES = [text for text in re.findall(r"```sh\n(.*?)```", MANUAL, re.DOTALL) if "curl" in text]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: the manual's examples were not tried")
def test_every_curl_example_of_the_manual_works(tmp_path: Path) -> None:
    assert len(EXAMPLES) >= 6
    service = RunningService(tmp_path, settings={"FLEXDB_OUTGOING_ALLOW": "127.0.0.1"}).start()
    try:
        with customers() as source:
            for example in EXAMPLES:
                answer = run(example.replace(PRINTED_SOURCE, source), service)
                assert "detail" not in answer, f"{example}\n{answer}"
                assert not answer.get("type", "").endswith((".failed", ".canceled")), f"{example}\n{answer}"
    finally:
        service.close()


def run(example: str, service: RunningService) -> dict[str, Any]:
    environment = {
        "PATH": os.environ["PATH"],
        "FLEXDB": f"http://127.0.0.1:{service.port}",
        "TOKEN": f"Authorization: Bearer {service.settings['FLEXDB_TOKEN']}",
    }
    done = subprocess.run(
        ["bash", "-ec", example], env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, f"{example}\n{done.stderr}"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
