"""Finding PostgreSQL client programs and choosing among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import NoFittingClient
from engines.postgres.clients import Clients, default_folders, needs_filter, oldest_reader

NAMES = ("pg_dump", "pg_restore", "pg_dumpall", "psql")


def installed(folder: Path, version: str, *names: str, says: str = "") -> Path:
    """A folder of programs that only know their version; with `says`, what they answer to all else."""
    folder.mkdir()
    for name in names or NAMES:
        script = f"#!/bin/sh\ncase \"$1\" in --version) echo '{name} (PostgreSQL) {version}'; exit;; esac\n"
        (folder / name).write_text(script + f"echo '{says}' >&2\nexit 1\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def many(tmp_path: Path) -> Clients:
    folders = [installed(tmp_path / f"v{major}", f"{major}.2 (Debian)") for major in (18, 14, 16, 15)]
    return Clients(lambda: folders)


@pytest.mark.parametrize(("server", "chosen"), [(13, 14), (14, 14), (15, 15), (16, 16), (17, 18), (18, 18)])
def test_a_dump_takes_the_servers_own_major_else_the_oldest_newer(many: Clients, server: int, chosen: int) -> None:
    assert many.for_dump(server, tls=False).major == chosen


def test_a_dump_never_takes_an_older_client(many: Clients) -> None:
    with pytest.raises(NoFittingClient) as refused:
        many.for_dump(19, tls=False)
    assert "18.2" in refused.value.message and "postgresql-client-19" in refused.value.hint


@pytest.mark.parametrize(
    ("server", "archive", "chosen"),
    [(15, 15, 15), (18, 15, 18), (14, 15, 14), (17, 15, 16), (15, 16, 16), (15, 18, 18), (18, 18, 18)],
)
def test_a_restore_takes_what_reads_the_archive_and_is_nearest_the_server(
    many: Clients, server: int, archive: int, chosen: int
) -> None:
    assert many.for_restore(server, archive, tls=False).major == chosen


def test_a_restore_into_an_older_server_needs_psql_beside_pg_restore(tmp_path: Path) -> None:
    folder = installed(tmp_path / "v18", "18.1", "pg_dump", "pg_restore")
    clients = Clients(lambda: [folder])
    assert needs_filter(18, 15) and not needs_filter(18, 17) and not needs_filter(16, 15)
    with pytest.raises(NoFittingClient):
        clients.for_restore(15, 18, tls=False)
    assert clients.for_restore(18, 18, tls=False).major == 18


def test_which_pg_restore_reads_which_archive() -> None:
    assert [oldest_reader(major) for major in (12, 15, 16, 17, 18, 19)] == [12, 12, 16, 17, 17, 19]


def test_where_tls_is_needed_a_client_without_it_is_passed_over(tmp_path: Path) -> None:
    without = 'pg_dump: error: sslmode value "require" invalid when SSL support is not compiled in'
    folders = [
        installed(tmp_path / "a", "18.1", says=without),
        installed(tmp_path / "b", "19.1", says="no server"),
    ]
    clients = Clients(lambda: folders)
    assert clients.for_dump(18, tls=False).major == 18
    assert clients.for_dump(18, tls=True).major == 19


def test_debians_wrapper_and_programs_that_cannot_run_are_passed_over(tmp_path: Path) -> None:
    wrapper = tmp_path / "pg_wrapper"
    wrapper.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.1'\n")
    wrapper.chmod(0o755)
    links = tmp_path / "bin"
    links.mkdir()
    (links / "pg_dump").symlink_to(wrapper)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "pg_dump").write_text("#!/nonexistent/interpreter\n")
    (broken / "pg_dump").chmod(0o755)
    assert Clients(lambda: [links, broken, tmp_path / "missing"]).all() == []


def test_the_tool_path_comes_first(tmp_path: Path) -> None:
    assert default_folders(f"{tmp_path}/a:{tmp_path}/b")[:2] == [tmp_path / "a", tmp_path / "b"]


def test_a_client_replaced_by_an_upgrade_is_asked_again(tmp_path: Path) -> None:
    folder = installed(tmp_path / "v", "15.1")
    clients = Clients(lambda: [folder])
    assert clients.all()[0].major == 15
    for name in NAMES:
        (folder / name).write_text((folder / name).read_text().replace("15.1", "16.10"))
    assert clients.all()[0].major == 16
