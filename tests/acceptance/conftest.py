"""Scenes on each engine for tests of the whole service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.scenes import Scene, open_scene, world_of
from tests.acceptance.worlds import PostgresWorld


@pytest.fixture
def sqlite_scene(tmp_path: Path) -> Iterator[Scene]:
    with open_scene(tmp_path, world_of("sqlite", tmp_path)) as scene:
        yield scene


@pytest.fixture
def postgres_scene(tmp_path: Path) -> Iterator[Scene]:
    with open_scene(tmp_path, world_of("postgres", tmp_path)) as scene:
        yield scene


@pytest.fixture
def postgres18_scene(tmp_path: Path, postgres18_url: str) -> Iterator[Scene]:
    with open_scene(tmp_path, PostgresWorld(postgres18_url)) as scene:
        yield scene


@pytest.fixture(params=["sqlite", "postgres"])
def scene(request: pytest.FixtureRequest) -> Scene:
    """The same test on both engines."""
    scene: Scene = request.getfixturevalue(f"{request.param}_scene")
    return scene
