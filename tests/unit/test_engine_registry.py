"""The registry: engines are what it says of them before it imports them, and are imported when they are needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engines.errors import UnsupportedOperation
from engines.registry import EngineRegistry


def test_engines_are_of_the_kind_and_read_the_schemes_that_are_told_beforehand() -> None:
    registry = EngineRegistry.default()
    told = {one.kind: one.schemes for one in registry._on_demand.values()}
    assert told == {kind: registry.by_kind(kind).schemes for kind in registry.kinds()}
    assert all(registry.by_kind(kind).kind == kind for kind in told)


def test_an_unknown_kind_names_those_there_are() -> None:
    with pytest.raises(UnsupportedOperation) as raised:
        EngineRegistry.default().by_kind("paper")
    assert "sqlite" in raised.value.hint


def test_a_service_with_sqlite_alone_imports_no_other_driver() -> None:
    ask = (
        "import sys; import service.app; from engines.registry import EngineRegistry;"
        "EngineRegistry.default().by_scheme('sqlite:///x');"
        "print([name for name in ('pymongo', 'pymysql', 'obstore', 'redis', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
