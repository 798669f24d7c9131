"""The calculator's walk-through in the manual is answered as it is printed there, in two databases too."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.service_process import RunningService
from tests.acceptance.test_manual import MANUAL, run
from tests.conftest import FreshDatabase
from tests.mongodb import with_database

SECTION = MANUAL.partition("\n## Calculator\n")[2].partition("\n## ")[0]
WALK = [text for text in re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL) if "/calculator/" in text]
TWO_DATABASES = re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL)
PRINTED = [json.loads(text) for text in re.findall(r"```json\n(\{.*\})\n```", SECTION)]


@pytest.fixture
def service(
    tmp_path: Path, postgres15_url: str, mongodb_url: str, fresh_database: FreshDatabase
) -> Iterator[RunningService]:
    documents = with_database(mongodb_url, f"flexdb_calculator_{secrets.token_hex(4)}")
    found = RunningService(
        tmp_path,
        {"shop": fresh_database(postgres15_url), "documents": documents},
        {"FLEXDB_CALCULATION_HISTORY": "shop"},
    ).start()
    yield found
    found.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_walk_through_is_answered_as_it_is_printed(service: RunningService) -> None:
    answers = [run(example, service)["result"] for example in WALK]
    assert answers[:2] == [printed["result"] for printed in PRINTED]
    assert answers[2:7] == [4, 20, -7, 0, 0]
    assert [(entry["operation"], entry["arguments"], entry["result"]) for entry in answers[7]] == [
        ("times", [5, 4], 20),
        ("minus", [3, 10], -7),
    ]

    keeping, *reading = TWO_DATABASES
    assert run(keeping, service) == {"result": "15511210043330985984000000"}
    relational, documents = (run(example, service)["result"] for example in reading)
    assert relational[-1:] == documents
    assert documents[0]["arguments"] == [25]
    assert documents[0]["result"] == "15511210043330985984000000"
