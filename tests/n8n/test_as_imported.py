"""What a user does first: import the credentials and every workflow by n8n's own command line, publish, run three."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cli.n8n.workflows import Workflow, shipped_folder, with_settings
from tests.acceptance.service_process import TOKEN, WEBHOOK_SECRET, RunningService
from tests.acceptance.webhook_receiver import receiving
from tests.n8n.pair import FORM_PASSWORD, FORM_USER, INCOMING_KEY, SHIPPED, Pair, sqlite_shop
from tests.n8n.process import RunningN8n
from tests.servers import loudly_skipped
from tools.n8n_install import Installed, InstallError, expected, install

pytestmark = pytest.mark.xdist_group("n8n")
FOLDER = shipped_folder()
IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
VALUES = {
    "FlexDB API key": {"name": "X-API-Key", "value": TOKEN},
    "FlexDB webhook secret": {"hmacSecret": WEBHOOK_SECRET},
    "n8n incoming webhooks": {"name": "X-API-Key", "value": INCOMING_KEY},
    "n8n forms": {"user": FORM_USER, "password": FORM_PASSWORD},
}


def wants_rabbitmq(workflow: Workflow) -> bool:
    return any(node["type"] == "n8n-nodes-base.rabbitmqTrigger" for node in workflow["nodes"])


@pytest.fixture(scope="module")
def cached_n8n() -> Installed:
    """The pinned n8n: from the cache, or in CI fetched now. Where it cannot be fetched the rest goes on."""
    if not IN_CI and not expected().complete:
        loudly_skipped("n8n is not in the cache: make test-n8n fetches it (2.2 GB)")
    try:
        return install()
    except InstallError as error:
        loudly_skipped(f"n8n cannot be fetched: {error}")
        raise


@pytest.fixture(scope="module")
def imported(cached_n8n: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A new n8n into which everything was imported before its first start, beside a FlexDB."""
    folder = tmp_path_factory.mktemp("as-imported")
    connections = {name: sqlite_shop(folder / "databases", name) for name in ("shop", "crm")}
    n8n, flexdb = RunningN8n(folder / "n8n", cached_n8n), RunningService(folder / "flexdb", connections)
    n8n.folder.mkdir()
    with receiving() as inbox:
        pair = Pair(n8n, flexdb, inbox)
        try:
            flexdb.start()
            n8n.cli("import:credentials", f"--input={filled_credentials(folder)}")
            n8n.cli("import:workflow", "--separate", f"--input={FOLDER}")
            n8n.cli("import:workflow", "--separate", f"--input={with_this_pairs_settings(pair, folder)}")
            n8n.start().own()
            yield pair
        finally:
            flexdb.close()
            n8n.close()


def filled_credentials(folder: Path) -> Path:
    """The shipped example with the values of this FlexDB."""
    shipped = json.loads((FOLDER / "credentials.example.json").read_text())
    for credential in shipped:
        credential["data"] = VALUES.get(credential["name"], credential["data"])
    path = folder / "credentials.json"
    path.write_text(json.dumps(shipped))
    return path


def with_this_pairs_settings(pair: Pair, folder: Path) -> Path:
    """The shipped workflows once more, with nothing changed but the Settings that every user must change."""
    into = folder / "workflows"
    into.mkdir()
    values = {"flexdbUrl": pair.flexdb_url, "notifyUrl": pair.notify_url, "connections": "shop, crm"}
    for name, workflow in SHIPPED.items():
        (into / f"{name}.json").write_text(json.dumps(with_settings(workflow, values)))
    return into


def test_every_workflow_is_there_under_its_own_id_with_its_credentials_linked(imported: Pair) -> None:
    for workflow in SHIPPED.values():
        found = imported.n8n.call("GET", f"/workflows/{workflow['id']}")
        assert found["name"] == workflow["name"]
        unlinked = [
            node["name"]
            for node in found["nodes"]
            for credential in node.get("credentials", {}).values()
            if credential["id"] == "REPLACE_ME"
        ]
        assert not unlinked


def test_importing_again_makes_no_second_copy(imported: Pair) -> None:
    with sqlite3.connect(imported.n8n.folder / ".n8n" / "database.sqlite") as database:
        (count,) = database.execute("SELECT count(*) FROM workflow_entity").fetchone()
    assert count == len(SHIPPED)


@pytest.mark.parametrize("name", sorted(name for name in SHIPPED if not wants_rabbitmq(SHIPPED[name])))
def test_it_can_be_published(imported: Pair, name: str) -> None:
    imported.n8n.publish(SHIPPED[name]["id"])
    imported.n8n.unpublish(SHIPPED[name]["id"])


def test_the_nightly_backup_proves_two_databases(imported: Pair) -> None:
    done = imported.run(SHIPPED["nightly-backup"]["id"])
    assert done.status == "success", done.error
    assert "✓ shop" in imported.told_of("Nightly backup: 2 of 2 proven")
    assert {backup["level"] for backup in imported.flexdb.get("/backups")["data"]} == {2}


def test_a_deployment_is_answered_when_its_backup_is_proven(imported: Pair) -> None:
    workflow = SHIPPED["backup-before-deployment"]
    (path,) = [node["parameters"]["path"] for node in workflow["nodes"] if node["type"] == "n8n-nodes-base.webhook"]
    imported.n8n.publish(workflow["id"])
    asked = {"connection": "shop", "deployment": "release-7"}
    answer = imported.n8n.webhook(f"/webhook/{path}", asked, {"X-API-Key": INCOMING_KEY})
    imported.n8n.unpublish(workflow["id"])
    assert answer.status == 200, answer.body
    assert answer.json["proven"] is True
    assert imported.flexdb.get(f"/backups/{answer.json['backup_id']}")["connection"] == "shop"


def test_the_health_report_speaks_of_every_connection(imported: Pair) -> None:
    done = imported.run(SHIPPED["health-report"]["id"])
    assert done.status == "success", done.error
    assert imported.told_of("shop", "crm")
