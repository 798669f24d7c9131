"""`flexdb n8n install` and `flexdb n8n check` against a real n8n and a real FlexDB.

The n8n is one of this module's own: these commands make the credentials that other tests have made already.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.cli.n8n.comparing import digest, is_live, triggers
from service.cli.n8n.lending import TEMPORARY
from service.cli.n8n.workflows import read_workflows, setting_rows, settings_of, shipped_folder
from tests.acceptance.service_process import TOKEN, WEBHOOK_SECRET, RunningService, free_port, until
from tests.acceptance.webhook_receiver import Receiver, receiving
from tests.n8n.pair import sqlite_shop
from tests.n8n.process import RunningN8n
from tools.n8n_install import Installed

FLEXDB = str(Path(sys.executable).with_name("flexdb"))
SHIPPED = read_workflows(shipped_folder())
OTHER_SECRET = "whsec_b3RoZXItc2VjcmV0LW9mLXRoZS1vdGhlci1mbGV4ZGI="
AMQP_URL = "amqp://worker:rabbit-password-71@127.0.0.1:5999/n8n"
WELL = ("reach", "token", "request", "callback", "secret")
FEW = tuple(f"--only={file}" for file in ("alert-on-workflow-errors", "nightly-backup", "check-the-pair"))
HEARS_CTRL_C = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from service.cli.commands import run
run(sys.argv[1:])
"""
AS_SAVED = """
const [package_, ...files] = process.argv.slice(1);
const ask = require('module').createRequire(package_);
const { NodeHelpers } = ask('n8n-workflow');
const fs = require('fs');
const base = ask.resolve('n8n-nodes-base/package.json').replace('package.json', 'dist/types/nodes.json');
const types = JSON.parse(fs.readFileSync(base));
const found = {};
for (const file of files) {
  const workflow = JSON.parse(fs.readFileSync(file));
  for (const node of workflow.nodes) {
    const name = node.type.replace('n8n-nodes-base.', '');
    const type = types.find((type) => type.name === name && [type.version].flat().includes(node.typeVersion));
    node.parameters = NodeHelpers.getNodeParameters(type.properties, node.parameters, false, false, node, type) ?? {};
  }
  found[file] = workflow;
}
console.log(JSON.stringify(found));
"""
"""What n8n's editor makes of nodes when it saves: their parameters without those that are defaults."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended and what it printed."""

    code: int
    said: str
    complaint: str

    @property
    def json(self) -> Any:
        return json.loads(self.said)

    @property
    def steps(self) -> dict[str, Any]:
        """What `install` did, by name."""
        return {step["name"]: step for step in self.json["steps"]}

    def actions(self, kind: str) -> set[str]:
        return {step["action"] for step in self.json["steps"] if step["kind"] == kind}

    def found(self, area: str) -> dict[str, str]:
        """State and detail of the findings of `check` in an area, by name."""
        told: dict[str, str] = {}
        for each in (each for each in self.json["findings"] if each["area"] == area):
            before = f"{told[each['name']]}; " if each["name"] in told else ""
            told[each["name"]] = f"{before}{each['state']}: {each['detail']}"
        return told


@dataclass
class World:
    """The command line beside its n8n and a FlexDB."""

    n8n: RunningN8n
    flexdb: RunningService
    home: Path
    inbox: Receiver

    def environment(self, **changed: str | None) -> dict[str, str]:
        """For the command line; variables that are None are left out."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FLEXDB_", "N8N_"))}
        ours: dict[str, str | None] = {
            "FLEXDB_HOME": str(self.home),
            "FLEXDB_URL": f"http://127.0.0.1:{self.flexdb.port}",
            "FLEXDB_TOKEN": TOKEN,
            "FLEXDB_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "N8N_URL": self.n8n.url,
            "N8N_API_KEY": self.n8n.api_key,
            **changed,
        }
        return inherited | {name: value for name, value in ours.items() if value is not None}

    def run(self, *words: str, given: str | None = None, **environment: str | None) -> Done:
        """`flexdb n8n WORDS`."""
        done = subprocess.run(
            [FLEXDB, "n8n", *words],
            cwd=self.home,
            env=self.environment(**environment),
            input=given or "",
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        for secret in (TOKEN, WEBHOOK_SECRET, OTHER_SECRET, "rabbit-password-71", self.n8n.api_key, *self.keys()):
            assert secret not in done.stdout + done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """`flexdb n8n WORDS` that a Ctrl-C reaches, even where whoever runs the tests ignores it."""
        return subprocess.Popen(
            [sys.executable, "-c", HEARS_CTRL_C, "n8n", *words],
            cwd=self.home,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def trials(self) -> list[str]:
        """What a check has in n8n for a moment: `workflow` once it is published, `credential`."""
        workflows = ["workflow" for each in self.workflows() if each["name"] == TEMPORARY and each["active"]]
        return workflows + ["credential" for name in self.credentials() if name == TEMPORARY]

    def install(self, *words: str, **environment: str | None) -> Done:
        done = self.run("install", "--json", *words, **environment)
        assert done.code == 0, done.said + done.complaint
        return done

    def check(self, *words: str, **environment: str | None) -> Done:
        return self.run("check", "--json", "--seconds", "15", *words, **environment)

    def keys(self) -> list[str]:
        """The secrets that were made up for callers of n8n."""
        file = self.home / "n8n_keys.json"
        return list(json.loads(file.read_text()).values()) if file.exists() else []

    def workflows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.n8n.call("GET", "/workflows?limit=250")["data"]
        return found

    def versions(self) -> dict[str, tuple[str, str | None]]:
        """What is saved and what is published, by id."""
        return {each["id"]: (each["versionId"], each["activeVersionId"]) for each in self.workflows()}

    def workflow(self, file: str) -> dict[str, Any]:
        """As n8n has it now, what is published included."""
        wanted = next(each for each in self.workflows() if each["name"] == SHIPPED[file]["name"])
        found: dict[str, Any] = self.n8n.call("GET", f"/workflows/{wanted['id']}")
        return found

    def write(self, workflow: dict[str, Any]) -> None:
        """Save it by the public API, which publishes it where the workflow is published."""
        body = {name: workflow[name] for name in ("name", "nodes", "connections", "settings")}
        self.n8n.call("PUT", f"/workflows/{workflow['id']}", body)

    def save_draft(self, workflow: dict[str, Any]) -> None:
        """Save it as the editor does, which publishes nothing."""
        body = {name: workflow[name] for name in ("name", "nodes", "connections", "settings")}
        self.n8n.rest("PATCH", f"/rest/workflows/{workflow['id']}", body)

    def credentials(self) -> dict[str, str]:
        """Ids by name."""
        return {each["name"]: each["id"] for each in self.n8n.call("GET", "/credentials?limit=250")["data"]}

    def empty(self) -> None:
        for workflow in self.workflows():
            if workflow["active"]:
                self.n8n.unpublish(workflow["id"])
            until(lambda workflow=workflow: self._gone(f"/workflows/{workflow['id']}"), 40, pause=0.2)  # type: ignore[misc]
        for credential in self.credentials().values():
            self.n8n.call("DELETE", f"/credentials/{credential}")

    def _gone(self, path: str) -> bool:
        """n8n answers 409 while it still takes webhooks away."""
        key = {"X-N8N-API-KEY": self.n8n.api_key}
        return self.n8n.request("DELETE", f"/api/v1{path}", None, key).status in {200, 204, 404}


@pytest.fixture(scope="module")
def own_n8n(installed_n8n: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningN8n]:
    n8n = RunningN8n(tmp_path_factory.mktemp("n8n"), installed_n8n)
    try:
        yield n8n.start().own()
    finally:
        n8n.close()


MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(own_n8n: RunningN8n, tmp_path: Path) -> Iterator[MakeWorld]:
    """`make_world(**settings of FlexDB)`: an empty n8n beside a FlexDB with the connections `shop` and `crm`."""
    with ExitStack() as stack:

        def make(**settings: str) -> World:
            connections = {name: sqlite_shop(tmp_path / "databases", name) for name in ("shop", "crm")}
            flexdb = RunningService(tmp_path / "flexdb", connections, settings)
            stack.callback(flexdb.close)
            home = tmp_path / "home"
            home.mkdir()
            world = World(own_n8n, flexdb.start(), home, stack.enter_context(receiving()))
            world.empty()
            return world

        yield make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


def node_of(workflow: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(node for node in workflow["nodes"] if node["name"] == name)
    return found


def row_of(workflow: dict[str, Any], name: str) -> dict[str, Any]:
    """A field of its Settings node."""
    return next(row for row in setting_rows(workflow) if row["name"] == name)


def with_timeout(milliseconds: int) -> Callable[[dict[str, Any]], None]:
    """A change of the nightly backup's nodes."""

    def change(workflow: dict[str, Any]) -> None:
        node_of(workflow, "Ask for a backup")["parameters"]["options"]["timeout"] = milliseconds

    return change


def folder_with(place: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A folder with this one workflow, changed as a later version of FlexDB would."""
    newer = copy.deepcopy(SHIPPED[file])
    change(newer)
    place.mkdir()
    (place / f"{file}.json").write_text(json.dumps(newer))
    return place


# -- install


def test_all_workflows_and_credentials_come_into_an_empty_n8n_and_a_second_run_changes_nothing(world: World) -> None:
    first = world.install(FLEXDB_AMQP_URL=AMQP_URL)
    assert first.actions("credential") == first.actions("workflow") == {"created"}
    assert set(first.steps) >= set(SHIPPED)
    ids = set(world.credentials().values())
    there = world.workflows()
    assert {each["name"] for each in there} == {each["name"] for each in SHIPPED.values()}
    for workflow in there:
        shipped = next(each for each in SHIPPED.values() if each["name"] == workflow["name"])
        url = f"http://127.0.0.1:{world.flexdb.port}"
        assert settings_of(workflow).get("flexdbUrl", url) == url
        assert {tag["name"] for tag in workflow["tags"]} == {tag["name"] for tag in shipped["tags"]}
        assert all(
            credential["id"] in ids for node in workflow["nodes"] for credential in node.get("credentials", {}).values()
        )
        wanted = shipped["settings"].get("errorWorkflow")
        target = next((each["name"] for each in SHIPPED.values() if each["id"] == wanted), None)
        linked = workflow["settings"].get("errorWorkflow")
        assert next((each["name"] for each in there if each["id"] == linked), None) == target
        assert not workflow["active"]
    assert stat.S_IMODE((world.home / "n8n_keys.json").stat().st_mode) == 0o600
    again = world.install(FLEXDB_AMQP_URL=AMQP_URL)
    assert again.actions("credential") == again.actions("workflow") == {"unchanged"}
    assert {each["id"]: each["versionId"] for each in world.workflows()} == {
        each["id"]: each["versionId"] for each in there
    }
    assert f"{len(SHIPPED)} unchanged" in world.run("install", FLEXDB_AMQP_URL=AMQP_URL).said


def test_a_dry_run_tells_all_and_changes_nothing(world: World) -> None:
    done = world.install("--dry-run", "--publish", "--notify-url", world.inbox.url, FLEXDB_AMQP_URL=AMQP_URL)
    assert done.actions("workflow") == {"created"}
    assert world.workflows() == [] and world.credentials() == {}
    assert list(world.home.iterdir()) == []


def test_without_rabbitmq_its_workflows_come_and_the_credential_is_said_to_be_missing(world: World) -> None:
    done = world.install()
    wanting = [file for file, each in SHIPPED.items() if "FlexDB RabbitMQ" in json.dumps(each)]
    assert all(done.steps[file]["action"] == "created" for file in wanting)
    if wanting:
        assert done.steps["FlexDB RabbitMQ"]["action"] == "not made"
    assert "FlexDB RabbitMQ" not in world.credentials()
    later = world.install(FLEXDB_AMQP_URL=AMQP_URL)
    assert all(later.steps[file]["action"] == "updated" for file in wanting)


def test_what_the_user_set_stays_through_an_update_and_what_was_published_is_published_anew(
    world: World, tmp_path: Path
) -> None:
    world.install(*FEW, "--publish", "--notify-url", world.inbox.url)
    mine = world.workflow("nightly-backup")
    assert is_live(mine)
    node_of(mine, "Every night at 02:30")["parameters"]["rule"] = {"interval": [{"field": "hours", "hoursInterval": 5}]}
    for row in node_of(mine, "Settings")["parameters"]["assignments"]["assignments"]:
        if row["name"] == "connections":
            row["value"] = "crm"
    mine["settings"] = {"timezone": "Europe/Berlin"}
    world.write(mine)
    unchanged = world.install(*FEW)
    assert unchanged.actions("workflow") == {"unchanged"}

    newer = folder_with(tmp_path / "newer", "nightly-backup", with_timeout(12345))
    older = world.check("--folder", str(newer))
    assert older.found("workflow")["nightly-backup"] == "warning: older, published"
    assert world.install("--folder", str(newer)).actions("workflow") == {"updated"}
    there = world.workflow("nightly-backup")
    assert is_live(there)
    for version in (there, there["activeVersion"]):
        assert node_of(version, "Ask for a backup")["parameters"]["options"]["timeout"] == 12345
        assert settings_of(version)["connections"] == "crm"
        assert node_of(version, "Every night at 02:30")["parameters"]["rule"]["interval"][0]["hoursInterval"] == 5
    assert there["settings"]["timezone"] == "Europe/Berlin"


def test_a_published_workflow_with_a_draft_is_left_alone_unless_told_otherwise(world: World, tmp_path: Path) -> None:
    world.install(*FEW, "--publish", "--notify-url", world.inbox.url)
    mine = world.workflow("nightly-backup")
    row_of(mine, "connections")["value"] = "crm"
    world.save_draft(mine)
    saved = world.versions()
    assert saved[mine["id"]][0] != saved[mine["id"]][1], "n8n keeps what was saved last beside what is published"
    told = world.check().found("workflow")["nightly-backup"]
    assert "warning: what was saved last is not what is published" in told
    assert world.install(*FEW).steps["nightly-backup"]["action"] == "unchanged"
    newer = folder_with(tmp_path / "newer", "nightly-backup", with_timeout(12345))
    asked = {"not touched": (f"--folder={newer}", "--publish"), "unchanged": (*FEW, "--publish")}
    for action, words in asked.items():
        for dry_run in ((), ("--dry-run",)):
            left = world.run("install", "--json", *words, *dry_run)
            step = left.steps["nightly-backup"]
            assert (left.code, step["action"], step["published"]) == (1, action, True), left.said
            assert "publish" in step["note"] and "in n8n" in step["note"] and "--overwrite" in step["note"]
    assert world.versions() == saved
    assert "1 not touched" in world.run("install", f"--folder={newer}").said
    taken = world.install("--folder", str(newer), "--overwrite").steps["nightly-backup"]
    assert (taken["action"], taken["note"]) == ("updated", "")
    there = world.workflow("nightly-backup")
    for version in (there, there["activeVersion"]):
        assert node_of(version, "Ask for a backup")["parameters"]["options"]["timeout"] == 12345
        assert settings_of(version)["connections"] == "crm"


def test_a_draft_of_the_users_own_nodes_is_not_published_by_a_setting_for_all(world: World) -> None:
    world.install(*FEW, "--publish", "--notify-url", world.inbox.url)
    mine = world.workflow("nightly-backup")
    with_timeout(777)(mine)
    world.save_draft(mine)
    left = world.run("install", "--json", *FEW, "--notify-url", "https://chat.acme.test/x")
    assert (left.code, left.steps["nightly-backup"]["action"]) == (1, "not touched")
    assert left.steps["check-the-pair"]["action"] == "unchanged"
    there = world.workflow("nightly-backup")
    assert settings_of(there)["notifyUrl"] == settings_of(there["activeVersion"])["notifyUrl"] == world.inbox.url
    assert node_of(there, "Ask for a backup")["parameters"]["options"]["timeout"] == 777
    assert node_of(there["activeVersion"], "Ask for a backup")["parameters"]["options"]["timeout"] == 30000
    world.n8n.publish(mine["id"])
    assert world.install(*FEW, "--notify-url", "https://chat.acme.test/x").steps["nightly-backup"]["action"] == "kept"
    assert settings_of(world.workflow("nightly-backup")["activeVersion"])["notifyUrl"] == "https://chat.acme.test/x"


def test_a_draft_in_which_nodes_only_stand_elsewhere_is_updated_and_they_stay_there(
    world: World, tmp_path: Path
) -> None:
    world.install(*FEW, "--publish", "--notify-url", world.inbox.url)
    mine = world.workflow("nightly-backup")
    node_of(mine, "Ask for a backup")["position"] = [77, 77]
    world.save_draft(mine)
    assert not is_live(world.workflow("nightly-backup"))
    assert world.check().found("workflow")["nightly-backup"] == "ok: up to date, published"
    newer = folder_with(tmp_path / "newer", "nightly-backup", with_timeout(12345))
    assert world.install("--folder", str(newer)).steps["nightly-backup"]["action"] == "updated"
    there = world.workflow("nightly-backup")
    assert is_live(there) and node_of(there, "Ask for a backup")["position"] == [77, 77]


def test_a_workflow_whose_nodes_the_user_changed_is_left_unless_told_otherwise(world: World) -> None:
    world.install(*FEW)
    mine = world.workflow("nightly-backup")
    node_of(mine, "Ask for a backup")["parameters"]["options"]["timeout"] = 777
    world.write(mine)
    kept = world.install(*FEW, "--notify-url", "https://chat.acme.test/x").steps["nightly-backup"]
    assert kept["action"] == "kept" and "changed by you" in kept["note"]
    there = world.workflow("nightly-backup")
    assert node_of(there, "Ask for a backup")["parameters"]["options"]["timeout"] == 777
    assert settings_of(there)["notifyUrl"] == "https://chat.acme.test/x"
    assert world.check().found("workflow")["nightly-backup"] == "ok: changed by you, not published"
    assert world.install(*FEW, "--overwrite").steps["nightly-backup"]["action"] == "updated"
    there = world.workflow("nightly-backup")
    assert node_of(there, "Ask for a backup")["parameters"]["options"]["timeout"] == 30000
    assert settings_of(there)["notifyUrl"] == "https://chat.acme.test/x"


def test_saving_in_the_editor_is_no_change(installed_n8n: Installed) -> None:
    files = [shipped_folder() / f"{file}.json" for file in SHIPPED]
    package = installed_n8n.n8n.parents[1] / "package.json"
    done = subprocess.run(
        [str(installed_n8n.node), "-e", AS_SAVED, str(package), *files], capture_output=True, text=True, check=True
    )
    saved = json.loads(done.stdout)
    for file in files:
        shipped = json.loads(file.read_text())
        assert saved[str(file)]["nodes"] != shipped["nodes"], "the editor leaves out what is a default"
        assert digest(saved[str(file)]) == digest(shipped), file.name


def test_only_what_is_ready_is_published(world: World) -> None:
    held = world.run("install", "--json", *FEW, "--publish")
    assert held.code == 1
    assert held.steps["nightly-backup"]["note"] == "not published: set notifyUrl in its Settings first"
    assert held.steps["check-the-pair"]["published"] is True
    done = world.run("install", "--json", "--publish", "--notify-url", world.inbox.url)
    for file, shipped in SHIPPED.items():
        wants_rabbitmq = "FlexDB RabbitMQ" in json.dumps(shipped)
        step = done.steps[file]
        assert step["published"] is (bool(triggers(shipped)) and "not published" not in step["note"]), step
        assert not wants_rabbitmq or "there is no credential FlexDB RabbitMQ" in step["note"]
    assert done.steps["nightly-backup"]["published"] is True


def test_credentials_that_are_there_are_left_alone_unless_told_otherwise(world: World) -> None:
    world.n8n.create_credentials("httpHeaderAuth", "FlexDB API key", {"name": "X-API-Key", "value": "a-wrong-token"})
    before = world.credentials()["FlexDB API key"]
    done = world.install(*FEW)
    assert done.steps["FlexDB API key"]["action"] == "unchanged"
    assert done.steps["FlexDB webhook secret"]["action"] == "created"
    wrong = world.check()
    assert wrong.code == 1
    assert wrong.found("round trip") == {
        "reach": f"ok: n8n reaches FlexDB at http://127.0.0.1:{world.flexdb.port}",
        "token": "fails: FlexDB does not take the token in the credential FlexDB API key.",
    }
    again = world.install(*FEW, "--replace-credentials").steps
    assert (again["FlexDB API key"]["action"], again["FlexDB API key"]["id"]) == ("replaced", before)
    assert again["n8n incoming webhooks"]["action"] == "unchanged"
    assert world.check().code == 0


def test_a_key_that_may_not_list_credentials_makes_none_twice(world: World) -> None:
    scopes = [scope for scope in world.n8n.rest("GET", "/rest/api-keys/scopes") if scope != "credential:list"]
    key = world.n8n.rest("POST", "/rest/api-keys", {"label": "no list", "expiresAt": None, "scopes": scopes})
    first = world.install(*FEW, N8N_API_KEY=key["rawApiKey"])
    assert first.actions("credential") == {"created"}
    there = world.credentials()
    assert world.install(*FEW, N8N_API_KEY=key["rawApiKey"]).actions("credential") == {"unchanged"}
    assert world.credentials() == there
    done = world.check(N8N_API_KEY=key["rawApiKey"])
    assert done.code == 0 and "does not list credentials" in done.found("credential")["list"]


def test_two_copies_of_a_workflow_are_not_touched(world: World) -> None:
    world.install(*FEW)
    copied = world.workflow("nightly-backup")
    world.n8n.create(copied)
    done = world.run("install", "--json", *FEW)
    assert done.code == 1
    assert done.steps["nightly-backup"]["action"] == "not touched"
    assert "n8n has it 2 times" in world.check().found("workflow")["nightly-backup"]


def test_the_key_of_n8n_and_the_address_of_the_team_need_not_stand_on_the_command_line(world: World) -> None:
    def notified() -> str:
        return str(settings_of(world.workflow("nightly-backup"))["notifyUrl"])

    key = world.n8n.api_key
    done = world.run("install", "--api-key", "-", *FEW, given=f"{key}\n", N8N_API_KEY=None)
    assert done.code == 0, done.complaint
    world.install(*FEW, N8N_NOTIFY_URL="https://chat.acme.test/of-the-environment")
    assert notified() == "https://chat.acme.test/of-the-environment"
    done = world.run("install", "--notify-url", "-", *FEW, given="https://chat.acme.test/from-a-line\n")
    assert (done.code, notified()) == (0, "https://chat.acme.test/from-a-line"), done.complaint
    both = ("install", "--notify-url=-", "--api-key=-", *FEW)
    done = world.run(*both, given=f"{key}\nhttps://chat.acme.test/behind-the-key", N8N_API_KEY=None)
    assert (done.code, notified()) == (0, "https://chat.acme.test/behind-the-key"), done.complaint
    assert "chat.acme.test" not in done.said + done.complaint
    done = world.run(*both, given=f"{key}\n", N8N_API_KEY=None)
    assert done.code == 2 and "There is no URL for --notify-url on standard input" in done.complaint


def test_a_wrong_key_a_weak_key_no_key_and_an_n8n_that_is_away_are_told_apart(world: World) -> None:
    weak = world.n8n.rest("POST", "/rest/api-keys", {"label": "weak", "expiresAt": None, "scopes": ["workflow:list"]})
    faults: dict[str, dict[str, str | None]] = {
        "n8n does not take the API key": {"N8N_API_KEY": "wrong"},
        "There is no API key": {"N8N_API_KEY": None},
        "may not do POST /api/v1/credentials": {"N8N_API_KEY": weak["rawApiKey"]},
        "does not answer (Connect": {"N8N_URL": f"http://127.0.0.1:{free_port()}"},
        "is not a URL": {"N8N_URL": "n8n at home"},
        "has no public API of n8n": {"N8N_URL": f"http://127.0.0.1:{world.flexdb.port}"},
        "FlexDB's token is not known here": {"FLEXDB_TOKEN": None},
    }
    for words, environment in faults.items():
        done = world.run("install", *FEW, **environment)
        assert done.code == 2 and words in done.complaint, done
    assert world.run("check", N8N_API_KEY="wrong").code == 2
    assert world.workflows() == [] and world.credentials() == {}


def test_the_example_credentials_are_what_n8ns_own_import_takes(world: World) -> None:
    world.n8n.cli("import:credentials", f"--input={shipped_folder() / 'credentials.example.json'}")
    names = {
        each["name"]: each["id"] for each in json.loads((shipped_folder() / "credentials.example.json").read_text())
    }
    assert world.credentials() == names
    assert world.install("--dry-run").actions("credential") == {"unchanged"}


def test_a_workflow_that_n8ns_own_import_brought_is_known_again(world: World) -> None:
    world.n8n.cli("import:workflow", f"--input={shipped_folder() / 'nightly-backup.json'}")
    assert world.install("--only=nightly-backup").steps["nightly-backup"]["action"] == "updated"
    step = world.install("--only=nightly-backup").steps["nightly-backup"]
    assert (step["action"], step["id"]) == ("unchanged", SHIPPED["nightly-backup"]["id"])


# -- check


def test_a_good_pair_is_told_as_good_and_nothing_is_left_behind(world: World) -> None:
    world.install(*FEW, "--publish", "--notify-url", world.inbox.url)
    workflows, credentials = world.versions(), world.credentials()
    done = world.check()
    assert done.code == 0 and done.json["ok"] is True, done.said
    assert {name for name, told in done.found("round trip").items() if told.startswith("ok")} == set(WELL)
    assert done.found("workflow")["nightly-backup"] == "ok: up to date, published"
    assert done.found("credential")["FlexDB API key"].startswith("ok")
    assert done.found("settings")["nightly-backup"] == "ok: filled in"
    assert world.versions() == workflows and world.credentials() == credentials
    assert "0 would fail" in world.run("check").said


def test_another_secret_is_told(make_world: MakeWorld) -> None:
    world = make_world(FLEXDB_WEBHOOK_SECRET=OTHER_SECRET)
    world.install(*FEW)
    done = world.check()
    assert done.code == 1
    found = done.found("round trip")
    assert found["callback"].startswith("ok") and "its signature is not the one" in found["secret"]


def test_a_flexdb_that_is_away_is_told(world: World) -> None:
    world.install(*FEW)
    world.flexdb.kill()
    done = world.check()
    assert done.code == 1
    assert "n8n does not reach FlexDB" in done.found("round trip")["reach"]
    assert "does not answer" in done.found("service")["running"]


def test_a_callback_that_flexdb_may_not_send_is_told(make_world: MakeWorld) -> None:
    world = make_world(FLEXDB_OUTGOING_ALLOW="192.0.2.7")
    world.install(*FEW)
    assert "FLEXDB_OUTGOING_ALLOW" in world.check().found("round trip")["request"]


def test_a_missing_credential_is_told_with_those_who_want_it(world: World) -> None:
    world.install(*FEW)
    world.n8n.call("DELETE", f"/credentials/{world.credentials()['FlexDB webhook secret']}")
    done = world.check()
    assert done.code == 1
    told = done.found("credential")["FlexDB webhook secret"]
    assert told.startswith("fails: n8n has none of this name") and "nightly-backup" in told
    assert done.found("round trip")["not tried"].endswith("n8n has no credential FlexDB webhook secret")
    assert world.install(*FEW).steps["nightly-backup"]["action"] == "updated"
    assert world.check().code == 0


def test_a_node_that_is_linked_with_a_credential_that_is_gone_is_told(world: World) -> None:
    world.install(*FEW)
    mine = world.workflow("nightly-backup")
    node_of(mine, "Look at the job")["credentials"]["httpHeaderAuth"]["id"] = "gone"
    world.write(mine)
    done = world.check()
    if node_of(world.workflow("nightly-backup"), "Look at the job")["credentials"]["httpHeaderAuth"]["id"] == "gone":
        assert done.found("credential")["nightly-backup"] == "fails: not linked in Look at the job"


def test_settings_that_cannot_work_count_where_the_workflow_is_published(world: World) -> None:
    world.install(*FEW, "--publish", "--notify-url", world.inbox.url)
    mine = world.workflow("nightly-backup")
    for row in node_of(mine, "Settings")["parameters"]["assignments"]["assignments"]:
        if row["name"] == "connections":
            row["value"] = "shop, gone"
    world.write(mine)
    done = world.check()
    assert done.code == 1
    assert done.found("settings")["nightly-backup"] == "fails: connections names gone: FlexDB has no such connection"
    world.n8n.unpublish(mine["id"])
    assert world.check().code == 0


def test_an_n8n_with_nothing_installed_is_told(world: World) -> None:
    done = world.check()
    assert done.code == 1
    assert set(done.found("workflow").values()) == {"warning: not installed"}
    assert "not tried" in done.found("round trip")


def test_workflows_are_run_by_copies_and_their_ends_told(world: World) -> None:
    world.install(*FEW, "--notify-url", world.inbox.url)
    good = world.check("--run", "nightly-backup", "--run", "check-the-pair")
    assert good.code == 0, good.said
    assert good.found("run") == {"nightly-backup": "ok: ran to its end", "check-the-pair": "ok: ran to its end"}
    assert {backup["connection"] for backup in world.flexdb.get("/backups")["data"]} == {"shop", "crm"}
    assert any(b"2 of 2 proven" in received.body for received in world.inbox.all)
    mine = world.workflow("nightly-backup")
    for row in node_of(mine, "Settings")["parameters"]["assignments"]["assignments"]:
        if row["name"] == "connections":
            row["value"] = "gone"
    world.write(mine)
    bad = world.check("--run", "all-safe")
    assert bad.code == 1
    assert bad.found("run")["nightly-backup"].startswith("fails: ended in error, at Stop: not all proven")
    assert not [each for each in world.workflows() if each["name"] == TEMPORARY]
    assert TEMPORARY not in world.credentials()


def test_a_workflow_that_does_not_end_is_stopped_and_told(make_world: MakeWorld) -> None:
    world = make_world(FLEXDB_ROLE="intake")  # takes jobs and does none
    world.install(*FEW, "--notify-url", world.inbox.url)
    done = world.check("--run", "nightly-backup", "--run-seconds", "4", "--seconds", "1")
    assert done.code == 1
    assert done.found("run")["nightly-backup"] == "fails: waiting after 4 s, so it was stopped"
    assert "now queued" in done.found("round trip")["callback"]
    assert not [each for each in world.workflows() if each["name"] == TEMPORARY]


@pytest.mark.parametrize("words", [(), ("--run", "nightly-backup")])
def test_ctrl_c_takes_away_what_a_check_made_and_what_a_killed_one_left_is_told(
    make_world: MakeWorld, words: tuple[str, ...]
) -> None:
    world = make_world(FLEXDB_ROLE="intake")  # takes jobs and does none
    world.install(*FEW, "--notify-url", world.inbox.url)
    broken_off = world.begin("check", "--seconds", "1" if words else "60", *words)
    if words:
        until(lambda: world.trials() and _runs_nightly(world), 60, pause=0.2)
    else:
        until(lambda: len(world.trials()) == 2, 30, pause=0.2)
    broken_off.send_signal(signal.SIGINT)
    said, complaint = broken_off.communicate(timeout=200)
    assert (broken_off.returncode, said, complaint) == (130, "", "")
    assert world.trials() == [] and not [each for each in world.workflows() if each["name"] == TEMPORARY]
    if words:
        return
    killed = world.begin("check", "--seconds", "60")
    until(lambda: len(world.trials()) == 2, 30, pause=0.2)
    killed.kill()
    killed.communicate(timeout=60)
    left = world.check("--seconds", "1").found("n8n")["leftover"]
    assert left.count("of a check that runs now, or was broken off") == 2
    assert len(world.trials()) == 2, "younger than two hours: it could be in use"


def _runs_nightly(world: World) -> bool:
    """Whether the copy that is there now is of nightly-backup, and runs."""
    copies = [each for each in world.workflows() if each["name"] == TEMPORARY and each["active"]]
    return any(node["name"] == "Ask for a backup" for each in copies for node in each["nodes"]) and any(
        world.n8n.executions(each["id"]) for each in copies
    )


def test_a_second_install_at_once_is_refused_and_nothing_comes_twice(world: World) -> None:
    both = [world.begin("install", *FEW) for _ in range(2)]
    ends = [each.communicate(timeout=60)[1] for each in both]
    assert sorted(each.returncode for each in both) == [0, 2], ends
    assert any("Another flexdb n8n install runs" in end for end in ends)
    assert len(world.workflows()) == len(world.credentials()) == 3


def test_an_install_goes_on_where_n8n_was_killed(world: World) -> None:
    first = world.begin("install")
    until(lambda: len(world.workflows()) > 3, 30, pause=0.05)
    world.n8n.kill()
    first.communicate(timeout=60)
    world.n8n.start()
    assert first.returncode == 2
    world.run("install")
    assert sorted(each["name"] for each in world.workflows()) == sorted(each["name"] for each in SHIPPED.values())
    assert world.run("install", "--json").actions("workflow") == {"unchanged"}
    done = world.check()
    assert {name for name, told in done.found("round trip").items() if told.startswith("ok")} == set(WELL), done.said


def test_an_archived_error_workflow_is_made_anew_and_linked(world: World) -> None:
    world.install(*FEW)
    old = world.workflow("alert-on-workflow-errors")["id"]
    world.n8n.rest("POST", f"/rest/workflows/{old}/archive", {})
    done = world.install(*FEW).steps
    assert done["alert-on-workflow-errors"]["action"] == "created"
    new = done["alert-on-workflow-errors"]["id"]
    assert new != old and world.workflow("nightly-backup")["settings"]["errorWorkflow"] == new


def test_a_node_without_a_credential_and_one_of_ones_own_are_told(world: World) -> None:
    world.install(*FEW)
    mine = world.workflow("nightly-backup")
    del node_of(mine, "Look at the job")["credentials"]
    own = world.n8n.create_credentials("httpHeaderAuth", "Mine", {"name": "X-API-Key", "value": "another-token"})
    node_of(mine, "Ask for a backup")["credentials"]["httpHeaderAuth"] = {"id": own, "name": "Mine"}
    world.write(mine)
    done = world.check()
    assert done.code == 1
    told = done.found("credential")["nightly-backup"]
    assert "fails: not linked in Look at the job" in told and "warning: uses Mine" in told
    world.n8n.call("DELETE", f"/credentials/{own}")
    assert "not linked in Ask for a backup" in world.check().found("credential")["nightly-backup"]
    world.install(*FEW)
    assert world.check().code == 0


def test_a_password_in_an_address_is_not_shown(world: World) -> None:
    world.install(*FEW)
    with_password = world.n8n.url.replace("//", "//me:pass-word-77@")
    for words, url in ((("--flexdb-url", "http://me:pass-word-77@127.0.0.1:9"), None), ((), with_password)):
        done = world.check(*words, **({"N8N_URL": url} if url else {}))
        assert "round trip" in done.said and "pass-word-77" not in done.said + done.complaint
