"""What belongs to FlexDB itself may be backed up, never written to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.errors import TargetProtected
from engines.registry import EngineRegistry
from service.connections import NamedConnections
from service.home import Home
from service.ledger.postgres_address import places

ENGINES = EngineRegistry.default()


def guarded(home: Home, file: Path) -> NamedConnections:
    return NamedConnections(
        {"shop": f"sqlite:///{file}"}, ENGINES, protected=(home.folder, home.ledger), exempt=(home.demo_folder,)
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    made.ledger.touch()
    return made


def test_the_ledger_and_all_below_the_home_are_never_written_to(home: Home) -> None:
    for file in (home.ledger, home.storage / "x.sqlite", home.folder / "new.sqlite", home.demo_folder / "../token"):
        connections = guarded(home, file)
        with pytest.raises(TargetProtected):
            connections.guard_write(connections.target("shop"))


def test_neither_a_symbolic_nor_a_hard_link_leads_round_the_guard(home: Home, tmp_path: Path) -> None:
    symbolic, hard = tmp_path / "symbolic.sqlite", tmp_path / "hard.sqlite"
    symbolic.symlink_to(home.ledger)
    os.link(home.ledger, hard)
    for file in (symbolic, hard):
        connections = guarded(home, file)
        with pytest.raises(TargetProtected):
            connections.guard_write(connections.target("shop"))


def test_the_demo_and_files_elsewhere_may_be_written_to(home: Home, tmp_path: Path) -> None:
    for file in (home.demo, home.demo_folder / "restored.sqlite", tmp_path / "shop.sqlite"):
        connections = guarded(home, file)
        connections.guard_write(connections.target("shop"))


def test_a_secret_is_made_once_and_only_its_owner_may_read_it(home: Home) -> None:
    assert home.kept_secret(home.token, "first") == ("first", True)
    assert home.kept_secret(home.token, "second") == ("first", False)
    assert home.token.stat().st_mode & 0o777 == 0o600
    assert home.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("password", ["plain", "with#hash", "with?mark"])
def test_the_database_of_the_ledger_is_never_written_to_whatever_its_url_looks_like(password: str) -> None:
    ledger = f"postgresql://flexdb:{password}@one:5432,two:6543/jobs?target_session_attrs=read-write"
    urls = {
        "same": "postgresql://other:user@ONE/jobs",
        "second": "postgresql://two:6543/jobs",
        "beside": "postgresql://one/shop",
    }
    connections = NamedConnections(urls, ENGINES, ledgers=tuple(places(ledger)))
    for name in ("same", "second"):
        with pytest.raises(TargetProtected):
            connections.guard_write(connections.target(name))
    connections.guard_write(connections.target("beside"))
