"""Which files SQLite URLs and names lead to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.errors import InvalidTarget
from engines.sqlite import SQLiteEngine
from engines.sqlite.names import artefact_name, database_file, file_beside
from engines.sqlite.structure import normalised


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////srv/x.db", "/srv/x.db"),
        ("SQLite:////srv/x.db", "/srv/x.db"),
        ("sqlite:////srv/a%20b%25%3Fc.db", "/srv/a b%?c.db"),
        ("sqlite:////srv/../srv/x.db", "/srv/x.db"),
        ("sqlite:///usr/x.db", "/usr/x.db"),
        ("sqlite:////srv/x#1.db", "/srv/x#1.db"),
    ],
)
def test_a_url_names_a_file(url: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(database_file(url)) == path


def test_three_slashes_are_relative_where_the_folder_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "usr").mkdir()
    assert database_file("sqlite:///usr/x.db") == Path(os.path.realpath(tmp_path / "usr" / "x.db"))
    assert database_file("sqlite:///x.db") == Path(os.path.realpath(tmp_path / "x.db"))
    assert database_file("sqlite:///no/such/x.db") == Path(os.path.realpath(tmp_path / "no" / "such" / "x.db"))


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://host/x.db",
        "sqlite:x.db",
        "sqlite:////x.db?mode=memory",
        "sqlite:////srv/a%00b",
        "sqlite:////srv/",
    ],
)
def test_urls_that_name_no_file_are_refused(url: str) -> None:
    with pytest.raises(InvalidTarget):
        SQLiteEngine().target("shop", url)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "a\\b",
        ".hidden",
        "-x",
        "a\0b",
        "a\nb",
        "x" * 201,
        "x.db-wal",
        "x.db-shm",
        "x.db-journal",
    ],
)
def test_into_takes_plain_file_names_only(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidTarget):
        file_beside(tmp_path / "shop.db", name)


def test_into_does_not_follow_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to("/etc/passwd")
    with pytest.raises(InvalidTarget):
        file_beside(tmp_path / "shop.db", "link.db")
    assert file_beside(tmp_path / "shop.db", 'a b"; drop.db') == tmp_path / 'a b"; drop.db'


def test_two_ways_to_one_file_are_one_target(tmp_path: Path) -> None:
    (tmp_path / "real.db").touch()
    (tmp_path / "link.db").symlink_to("real.db")
    engine = SQLiteEngine()
    one, other = (engine.target("x", f"sqlite:///{tmp_path}/{name}.db") for name in ("real", "link"))
    assert one.key == other.key
    assert engine.into(one, "link2.db").key != one.key


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/srv/shop.db", "shop.sqlite"),
        ("/srv/-x;rm -rf.db", "x_rm_-rf.sqlite"),
        ("/srv/ü.db", "database.sqlite"),
    ],
)
def test_the_dump_is_named_after_the_file(path: str, name: str) -> None:
    assert artefact_name(Path(path)) == name


def test_definitions_that_mean_the_same_are_normalised_to_the_same() -> None:
    one = "CREATE TABLE t (\n  a  INTEGER, -- the id\n  b TEXT DEFAULT 'A  b'\n)"
    other = "create table t(a integer,b text default 'A  b')"
    assert normalised(one) == normalised(other)
    assert normalised(other) != normalised(other.replace("A  b", "a b"))
