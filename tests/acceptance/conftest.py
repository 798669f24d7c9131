"""Scenes on each engine for tests of the whole service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.mongodb_world import MongoWorld
from tests.acceptance.mysql_world import MySQLWorld
from tests.acceptance.scenes import Scene, open_scene, postgres15, world_of
from tests.acceptance.worlds import PostgresWorld, SQLiteWorld


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


@pytest.fixture
def sqlite_world(tmp_path: Path) -> SQLiteWorld:
    return SQLiteWorld(tmp_path / "databases")


@pytest.fixture
def postgres_world() -> PostgresWorld:
    return postgres15()


@pytest.fixture
def mysql_world(mysql_url: str) -> MySQLWorld:
    return MySQLWorld(mysql_url)


@pytest.fixture
def mongodb_world(mongodb_url: str) -> MongoWorld:
    return MongoWorld(mongodb_url)
