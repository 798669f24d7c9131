"""Scenes on each engine for tests of the whole service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.scenes import POSTGRES_15, Scene, answers, open_scene, world_of


@pytest.fixture
def sqlite_scene(tmp_path: Path) -> Iterator[Scene]:
    with open_scene(tmp_path, world_of("sqlite", tmp_path)) as scene:
        yield scene


@pytest.fixture
def postgres_scene(tmp_path: Path) -> Iterator[Scene]:
    if not answers(POSTGRES_15):
        pytest.skip("no PostgreSQL server answers; name one in FLEXDB_TEST_POSTGRES_URL")
    with open_scene(tmp_path, world_of("postgres", tmp_path)) as scene:
        yield scene


@pytest.fixture(params=["sqlite", "postgres"])
def scene(request: pytest.FixtureRequest) -> Scene:
    """The same test on both engines."""
    scene: Scene = request.getfixturevalue(f"{request.param}_scene")
    return scene
