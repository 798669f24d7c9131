"""A workbench on the MongoDB of this session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.mongodb.workbench import Workbench


@pytest.fixture
def bench(tmp_path: Path, mongodb_url: str) -> Iterator[Workbench]:
    made = Workbench(tmp_path, mongodb_url)
    yield made
    made.close()
