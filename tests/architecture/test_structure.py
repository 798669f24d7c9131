"""The shape of the code: imports run one way, modules stay small, every module says its job."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for folder in ("service", "handlers", "engines") for path in (ROOT / folder).rglob("*.py"))
LONGEST_MODULE = 440
LONGEST_FUNCTION = 60


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_its_job_and_stays_small(path: Path) -> None:
    text = path.read_text()
    if not text.strip():
        return
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the first line says what the module is responsible for"
    assert len(text.splitlines()) <= LONGEST_MODULE
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [
        f"{node.name} {(node.end_lineno or 0) - node.lineno}"
        for node in functions
        if (node.end_lineno or 0) - node.lineno > LONGEST_FUNCTION
    ]
    assert not long


def test_no_secret_and_no_database_file_is_tracked() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in listed if name.endswith((".sqlite", ".db", ".dump", ".env", ".pem", ".key"))]
