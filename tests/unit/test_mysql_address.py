"""URLs of MySQL and MariaDB connections, what programs are told of them, and which programs fit a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import AccessDenied, InvalidTarget, NoFittingClient, TargetBusy, TargetUnavailable
from engines.mysql import MySQLEngine
from engines.mysql.address import Address
from engines.mysql.clients import Clients, Release
from engines.mysql.session import by_number

ENGINE = MySQLEngine()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://root@localhost/shop",
        "mariadb://root:x@127.0.0.1:3306/shop",
        "mysql://other@LOCALHOST./shop?ssl-mode=DISABLED",
        "mysql://root@[::1]/shop?sslmode=prefer",
        "mysql://root@anything/shop?socket=/run/mysqld/mysqld.sock",
    ],
)
def test_one_database_has_one_key_however_it_is_written(url: str) -> None:
    assert ENGINE.target("shop", url).key == "mysql://localhost:3306/shop"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://root:s3cr@et@host/shop",
        "mysql://root:s3cret@host:port/shop",
        "mysql://root:s3cret@host:99999/shop",
        "mysql://root:s3cr#et@host/shop",
        "mysql://root:s3cret@host",
        "mysql://root:s3cret@host/shop?password=s3cret",
        "mysql://root:s3cret@host/shop?ssl-mode=s3cret",
        f"mysql://root:s3cret@host/{'x' * 65}",
    ],
)
def test_urls_that_make_no_sense_are_refused_without_quoting_their_secret(url: str) -> None:
    with pytest.raises(InvalidTarget) as refused:
        ENGINE.target("shop", url)
    assert "s3cr" not in refused.value.message


@pytest.mark.parametrize("name", ["mysql", "SYS", "information_schema", "flexdb_new_x", "flexdb_scratch_x", "x "])
def test_names_that_are_kept_for_others_are_refused(name: str) -> None:
    with pytest.raises(InvalidTarget):
        ENGINE.into(ENGINE.target("shop", "mysql://root@host/shop"), name)


def test_the_options_file_is_for_its_owner_only_and_goes_away(tmp_path: Path) -> None:
    address = Address.parse("mysql://us%22er:p%5Cw%22%23@host:3307/shop?ssl-mode=verify_ca&ssl-ca=/ca.pem")
    with address.options_file(tmp_path, mariadb=True) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        text = path.read_text()
    assert 'user="us\\"er"' in text
    assert 'password="p\\\\w\\"#"' in text
    assert 'ssl-verify-server-cert="1"' in text
    assert list(tmp_path.iterdir()) == []
    with address.options_file(tmp_path, mariadb=False) as path:
        assert 'ssl-mode="VERIFY_CA"' in path.read_text()


def program(folder: Path, name: str, said: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{said}'\n")
    path.chmod(0o755)


MARIADB_10 = "mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)"
MARIADB_11 = "mariadb-dump from 11.4.2-MariaDB, client 10.19 for Linux (x86_64)"
MYSQL_8 = "mysqldump  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)"
MYSQL_57 = "mysqldump  Ver 10.13 Distrib 5.7.44, for Linux (x86_64)"


@pytest.mark.parametrize(
    ("server", "version"),
    [
        ("10.11.6-MariaDB", "10.11.19-MariaDB"),
        ("10.6.1-MariaDB-log", "10.11.19-MariaDB"),
        ("11.2.2-MariaDB", "11.4.2-MariaDB"),
        ("5.5.5-10.3.39-MariaDB", "10.11.19-MariaDB"),
        ("12.0.1-MariaDB", "11.4.2-MariaDB"),
        ("8.0.36", "8.0.36"),
        ("5.7.30-log", "5.7.44"),
        ("8.4.0", "11.4.2-MariaDB"),
    ],
)
def test_the_program_nearest_to_the_server_is_chosen(tmp_path: Path, server: str, version: str) -> None:
    said = {"a": MARIADB_10, "b": MARIADB_11, "c": MYSQL_8, "d": MYSQL_57}
    for name, text in said.items():
        program(tmp_path / name, "mysqldump", text)
    clients = Clients(lambda: [tmp_path / name for name in said])
    assert clients.dumper(Release.read(server)).version == version


def test_mysql_programs_alone_do_not_fit_a_mariadb_server(tmp_path: Path) -> None:
    program(tmp_path / "c", "mysqldump", MYSQL_8)
    with pytest.raises(NoFittingClient) as missing:
        Clients(lambda: [tmp_path / "c"]).dumper(Release.read("10.11.6-MariaDB"))
    assert "8.0.36" in missing.value.message


@pytest.mark.parametrize(
    ("number", "kind"), [(1045, AccessDenied), (1213, TargetBusy), (2003, TargetUnavailable), (1040, TargetUnavailable)]
)
def test_error_numbers_have_their_meaning(number: int, kind: type[Exception]) -> None:
    assert isinstance(by_number(number, "x"), kind)
