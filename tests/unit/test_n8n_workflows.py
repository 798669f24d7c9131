"""The parts of `flexdb n8n` that need no n8n: telling workflows apart, keeping what is the user's, reading settings."""

from __future__ import annotations

import asyncio
import copy
import json
import stat
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from service.cli.exits import CommandError
from service.cli.n8n.api import N8n, N8nAway, N8nRefused
from service.cli.n8n.comparing import State, digest, find_installed, has_draft, mark_of, state_of, triggers
from service.cli.n8n.credentials import (
    FLEXDB_KEY,
    FLEXDB_RABBITMQ,
    FLEXDB_SECRET,
    FORMS,
    INCOMING,
    PLACEHOLDERS,
    Known,
    NotKnown,
    Values,
    create,
    named,
)
from service.cli.n8n.installing import Installer, Wishes, alone, choose
from service.cli.n8n.lending import TEMPORARY, TEMPORARY_KEY, clear_away, lent, startable
from service.cli.n8n.looking import Names, look_at_credentials, look_at_settings
from service.cli.n8n.merging import Place, merged, same
from service.cli.n8n.round_trip import told
from service.cli.n8n.trying import is_safe
from service.cli.n8n.workflows import (
    placeholders,
    read_workflows,
    setting_rows,
    settings_of,
    shipped_folder,
    with_settings,
)
from service.settings import Settings

SHIPPED = read_workflows(shipped_folder())
NIGHTLY = SHIPPED["nightly-backup"]
CHECK = SHIPPED["check-the-pair"]
Document = dict[str, Any]


def node_of(workflow: Document, name: str) -> Document:
    found: Document = next(node for node in workflow["nodes"] if node["name"] == name)
    return found


def place() -> Place:
    known = Known({FLEXDB_KEY: ["k1"], FLEXDB_SECRET: ["s1"], INCOMING: ["i1"]})
    return Place(known, {"errors1"}, {"flexdbErrorAlerts": "errors1"}, "0.1.0")


def installed(shipped: Document = NIGHTLY, **settings: Any) -> Document:
    """As n8n has it after an install."""
    return {"id": "n8nMadeThis", **copy.deepcopy(merged("nightly-backup", shipped, None, place(), settings))}


@pytest.mark.parametrize("file", SHIPPED)
def test_every_shipped_workflow_is_itself_once_installed(file: str) -> None:
    there = {"id": "x", **merged(file, SHIPPED[file], None, place(), {})}
    assert state_of(there, SHIPPED[file]) is State.CURRENT
    assert same(merged(file, SHIPPED[file], there, place(), {}), there)


@pytest.mark.parametrize("file", SHIPPED)
def test_every_shipped_workflow_is_told_from_all_others(file: str) -> None:
    everything = [{"id": f"new{number}", **workflow} for number, workflow in enumerate(SHIPPED.values())]
    assert [found["name"] for found in find_installed(SHIPPED[file], everything)] == [SHIPPED[file]["name"]]


def test_what_is_the_users_does_not_make_a_workflow_another() -> None:
    there = installed(notifyUrl="https://chat.acme.test/x")
    node_of(there, "Every night at 02:30")["parameters"]["rule"] = {"interval": [{"field": "hours"}]}
    node_of(there, "Ask for a backup")["position"] = [0, 0]
    node_of(there, "Ask for a backup")["credentials"]["httpHeaderAuth"] = {"id": "own", "name": "Another key"}
    there["nodes"] = [node for node in there["nodes"] if not node["name"].startswith("Note:")]
    assert state_of(there, NIGHTLY) is State.CURRENT


def test_a_changed_node_is_seen_and_an_older_version_told_from_it() -> None:
    older = copy.deepcopy(NIGHTLY)
    node_of(older, "Ask for a backup")["parameters"]["options"]["timeout"] = 1
    there = installed(older)
    assert state_of(there, NIGHTLY) is State.OLDER
    node_of(there, "Ask for a backup")["parameters"]["options"]["timeout"] = 2
    assert state_of(there, NIGHTLY) is State.CHANGED
    node_of(there, "Settings")["notes"] = ""
    assert state_of(there, NIGHTLY) is State.UNKNOWN


def test_a_changed_connection_is_seen() -> None:
    there = installed()
    there["connections"]["Did all succeed?"]["main"].reverse()
    assert state_of(there, NIGHTLY) is State.CHANGED


def test_a_field_that_is_new_in_settings_makes_it_older() -> None:
    there = installed()
    rows = setting_rows(there)
    rows[:] = [row for row in rows if row["name"] != "verify"]
    assert state_of(there, NIGHTLY) is State.OLDER
    ready = merged("nightly-backup", NIGHTLY, there, place(), {})
    assert settings_of(ready)["verify"] == settings_of(NIGHTLY)["verify"]


def test_an_update_keeps_settings_schedule_timezone_name_notes_and_chosen_credentials() -> None:
    there = installed(connections="eu, us", flexdbUrl="http://flexdb:8080")
    rows = setting_rows(there)
    rows.insert(0, {"id": "own", "name": "mine", "value": "kept", "type": "string"})
    node_of(there, "Every night at 02:30")["parameters"]["rule"] = {"interval": [{"field": "hours"}]}
    node_of(there, "Ask for a backup")["credentials"] = {"httpHeaderAuth": {"id": "k2", "name": "Another key"}}
    there["settings"] |= {"timezone": "Europe/Berlin", "callerPolicy": "none", "binaryMode": "separate"}
    there["name"] = "Backups of Acme"
    there["nodes"].append({**node_of(NIGHTLY, "Note: overview"), "name": "My note", "id": "note"})
    newer = copy.deepcopy(NIGHTLY)
    node_of(newer, "Ask for a backup")["parameters"]["options"]["timeout"] = 12345
    where = place()
    where.known.add(("httpHeaderAuth", "Another key"), "k2")
    ready = merged("nightly-backup", newer, there, where, {})
    assert settings_of(ready)["connections"] == "eu, us" and settings_of(ready)["mine"] == "kept"
    assert setting_rows(ready)[-1]["name"] == "startedAt"
    assert node_of(ready, "Every night at 02:30")["parameters"]["rule"] == {"interval": [{"field": "hours"}]}
    assert node_of(ready, "Ask for a backup")["parameters"]["options"]["timeout"] == 12345
    assert node_of(ready, "Ask for a backup")["credentials"]["httpHeaderAuth"]["id"] == "k2"
    assert ready["settings"]["timezone"] == "Europe/Berlin" and ready["settings"]["callerPolicy"] == "none"
    assert "binaryMode" not in ready["settings"]
    assert ready["name"] == "Backups of Acme" and node_of(ready, "My note")
    assert state_of({"id": "x", **ready}, newer) is State.CURRENT


def test_links_go_by_name_and_stay_placeholders_where_there_is_nothing() -> None:
    ready = merged("nightly-backup", NIGHTLY, None, place(), {})
    assert node_of(ready, "Ask for a backup")["credentials"]["httpHeaderAuth"] == {"id": "k1", "name": FLEXDB_KEY[1]}
    bare = merged("nightly-backup", NIGHTLY, None, Place(Known()), {})
    assert node_of(bare, "Ask for a backup")["credentials"]["httpHeaderAuth"]["id"] in PLACEHOLDERS


def test_the_error_workflow_is_ours_unless_the_user_chose_one_that_exists() -> None:
    assert merged("nightly-backup", NIGHTLY, None, place(), {})["settings"]["errorWorkflow"] == "errors1"
    there = installed()
    there["settings"]["errorWorkflow"] = "theirs"
    mended = merged("nightly-backup", NIGHTLY, there, place(), {})
    assert mended["settings"]["errorWorkflow"] == "errors1"
    where = Place(place().known, {"theirs", "errors1"}, {"flexdbErrorAlerts": "errors1"})
    assert merged("nightly-backup", NIGHTLY, there, where, {})["settings"]["errorWorkflow"] == "theirs"
    assert "errorWorkflow" not in merged("nightly-backup", NIGHTLY, None, Place(Known()), {})["settings"]


def test_an_installed_workflow_is_found_by_id_by_node_and_by_name() -> None:
    elsewhere = {**copy.deepcopy(CHECK), "id": "other"}
    by_id = {**installed(), "id": NIGHTLY["id"], "name": "renamed"}
    assert find_installed(NIGHTLY, [elsewhere, by_id]) == [by_id]
    renamed = {**installed(), "name": "renamed"}
    assert find_installed(NIGHTLY, [elsewhere, renamed]) == [renamed]
    imported = installed()
    for number, node in enumerate(imported["nodes"]):
        node["id"] = f"n{number}"
    assert find_installed(NIGHTLY, [elsewhere, imported]) == [imported]
    namesake = {**copy.deepcopy(elsewhere), "name": NIGHTLY["name"]}
    assert find_installed(NIGHTLY, [namesake]) == []
    assert find_installed(NIGHTLY, [{**installed(), "isArchived": True}]) == []
    assert len(find_installed(NIGHTLY, [installed(), {**installed(), "id": "copy"}])) == 2


def test_the_mark_holds_version_file_and_digest() -> None:
    assert mark_of("0.1.0", "nightly-backup", NIGHTLY) == f"FlexDB 0.1.0, nightly-backup, {digest(NIGHTLY)}"


def test_workflows_are_chosen_by_file_id_or_name_and_the_one_for_errors_comes_first() -> None:
    assert list(choose(SHIPPED, ("nightly-backup.json", CHECK["name"]))) == ["check-the-pair", "nightly-backup"]
    assert list(choose(SHIPPED, (CHECK["id"],))) == ["check-the-pair"]
    errors = copy.deepcopy(CHECK) | {"id": "flexdbErrorAlerts"}
    assert next(iter(choose({"a": NIGHTLY, "z": errors}, ()))) == "z"
    with pytest.raises(CommandError, match="no workflow nonsense"):
        choose(SHIPPED, ("nonsense",))


def test_only_harmless_workflows_are_safe_to_run() -> None:
    assert is_safe(CHECK) and is_safe(NIGHTLY)
    writing = copy.deepcopy(NIGHTLY)
    node_of(writing, "Ask for a backup")["parameters"]["url"] = (
        "={{ $('Settings').first().json.flexdbUrl }}/hooks/restore"
    )
    assert not is_safe(writing)
    node_of(writing, "Ask for a backup")["parameters"]["url"] = "https://api.acme.test/orders"
    assert not is_safe(writing)
    by_clock = copy.deepcopy(NIGHTLY)
    by_clock["nodes"] = [node for node in by_clock["nodes"] if node["name"] != "Run by hand"]
    assert not is_safe(by_clock)


def test_a_copy_for_a_trial_starts_by_nothing_but_our_webhook_and_alarms_nobody() -> None:
    ready = startable(NIGHTLY, "Run by hand", "secret-path", "cred")
    assert triggers(ready) == ["Run by hand"]
    hook = node_of(ready, "Run by hand")
    assert hook["type"].endswith(".webhook") and hook["parameters"]["path"] == "secret-path"
    assert hook["credentials"] == {"httpHeaderAuth": {"id": "cred", "name": ready["name"]}}
    assert "errorWorkflow" not in ready["settings"]
    assert node_of(NIGHTLY, "Run by hand")["type"].endswith(".manualTrigger")


def test_settings_that_only_stand_for_an_answer_are_named() -> None:
    assert placeholders(NIGHTLY) == ["notifyUrl"]
    assert placeholders(with_settings(NIGHTLY, {"notifyUrl": "https://chat.acme.test/x"})) == []


def test_names_flexdb_does_not_have_count_where_the_workflow_is_published() -> None:
    there = installed(notifyUrl="https://chat.acme.test/x", connections="shop, gone")
    names = Names(frozenset({"shop", "crm"}), frozenset())
    draft = look_at_settings({"nightly-backup": there}, names)
    live = look_at_settings({"nightly-backup": there | {"active": True}}, names)
    assert [(each.state, each.detail) for each in (*draft, *live)] == [
        ("warning", "connections names gone: FlexDB has no such connection"),
        ("fails", "connections names gone: FlexDB has no such connection"),
    ]
    assert [each.state for each in look_at_settings({"nightly-backup": there}, None)] == ["ok"]


def test_a_setting_that_is_no_url_is_told() -> None:
    there = installed(notifyUrl="", flexdbUrl="flexdb:8080") | {"active": True}
    assert [(each.state, each.detail) for each in look_at_settings({"nightly-backup": there}, None)] == [
        ("fails", "flexdbUrl, notifyUrl is not a URL")
    ]
    assert [each.state for each in look_at_settings({"e": installed(notifyUrl="={{ $json.url }}")}, None)] == ["ok"]


def links_told(there: Document, known: Known) -> list[tuple[str, str]]:
    found = look_at_credentials({"nightly-backup": there}, SHIPPED, known)
    return [(str(each.state), each.detail) for each in found if each.name == "nightly-backup"]


def test_nodes_without_a_credential_or_with_one_that_is_gone_are_told() -> None:
    there = installed()
    assert links_told(there, place().known) == []
    del node_of(there, "Look at the job")["credentials"]
    node_of(there, "Ask for a backup")["credentials"]["httpHeaderAuth"] = {"id": "gone", "name": "My own"}
    [(state, detail)] = links_told(there, place().known)
    assert state == "fails"
    assert detail.startswith("not linked in ") and "Look at the job" in detail and "Ask for a backup" in detail
    node_of(there, "Ask for a backup")["disabled"] = True
    assert "Ask for a backup" not in links_told(there, place().known)[0][1]


def test_a_credential_that_the_round_trip_does_not_try_is_told() -> None:
    there, where = installed(), place()
    where.known.add(("httpHeaderAuth", "My own"), "k2")
    node_of(there, "Ask for a backup")["credentials"]["httpHeaderAuth"] = {"id": "k2", "name": "My own"}
    assert links_told(there, where.known) == [("warning", "uses My own (k2), which the round trip does not try")]


def test_a_password_in_the_address_is_not_in_the_problem_either() -> None:
    url = "http://user:password@flexdb:8080"
    [finding] = told({"problem": f"n8n does not reach FlexDB at {url}: refused"}, url)
    assert finding.detail == "n8n does not reach FlexDB at http://flexdb:8080: refused"


def test_an_answer_is_told_up_to_the_first_fault() -> None:
    answer = {"flexdb_reached": True, "token_taken": False, "problem": "FlexDB does not take the token."}
    findings = told(answer, "http://user:password@flexdb:8080")
    assert [(each.name, each.state) for each in findings] == [("reach", "ok"), ("token", "fails")]
    assert "password" not in findings[0].detail
    fields = ("flexdb_reached", "token_taken", "request_taken", "callback_arrived", "signature_valid")
    assert all(each.state == "ok" for each in told(dict.fromkeys(fields, True), "http://flexdb"))


# -- credentials


def values(tmp_path: Path, **settings: Any) -> Values:
    return Values.of(Settings(_env_file=None, home=tmp_path, **settings), None)


def test_token_and_first_secret_come_from_the_settings_or_from_the_home(tmp_path: Path) -> None:
    given = values(tmp_path, token=SecretStr("t0ken"), webhook_secret=SecretStr("whsec_one whsec_two"))
    assert given.data(FLEXDB_KEY) == {"name": "X-API-Key", "value": "t0ken"}
    assert given.data(FLEXDB_SECRET) == {"hmacSecret": "whsec_one"}
    (tmp_path / "token").write_text("kept-token\n")
    (tmp_path / "webhook_secret").write_text("whsec_kept\n")
    assert values(tmp_path).data(FLEXDB_KEY)["value"] == "kept-token"
    assert values(tmp_path).data(FLEXDB_SECRET) == {"hmacSecret": "whsec_kept"}


def test_what_is_not_known_here_is_said_so(tmp_path: Path) -> None:
    for key in (FLEXDB_KEY, FLEXDB_SECRET, FLEXDB_RABBITMQ, ("slackApi", "Chat")):
        with pytest.raises(NotKnown):
            values(tmp_path).known(key)


def test_rabbitmq_is_taken_from_its_url(tmp_path: Path) -> None:
    plain = values(tmp_path, amqp_url=SecretStr("amqp://us%40er:pa%2Fss@rabbit/a%2Fb")).data(FLEXDB_RABBITMQ)
    assert plain == {
        "hostname": "rabbit",
        "port": 5672,
        "username": "us@er",
        "password": "pa/ss",
        "vhost": "a/b",
        "ssl": False,
    }
    secure = values(tmp_path, amqp_url=SecretStr("amqps://rabbit")).data(FLEXDB_RABBITMQ)
    assert (secure["port"], secure["ssl"], secure["vhost"], secure["username"]) == (5671, True, "/", "guest")


def test_keys_made_up_are_kept_for_their_owner_only_and_made_once(tmp_path: Path) -> None:
    wanted = values(tmp_path)
    wanted.known(INCOMING)
    assert not wanted.keys_file.exists()
    key, password = wanted.data(INCOMING)["value"], wanted.data(FORMS)["password"]
    assert stat.S_IMODE(wanted.keys_file.stat().st_mode) == 0o600
    assert len(key) >= 32 and key != password
    again = values(tmp_path)
    assert (again.data(INCOMING)["value"], again.data(FORMS)["password"]) == (key, password)
    wanted.keys_file.write_text("no JSON")
    with pytest.raises(CommandError, match="cannot be read"):
        again.known(INCOMING)


@pytest.mark.parametrize(
    "text", ['["mine"]', '{"incoming_key": ""}', '{"incoming_key": null}', '{"forms_password": 7}']
)
def test_a_file_that_holds_other_things_than_keys_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    wanted = values(tmp_path)
    wanted.keys_file.write_text(text)
    with pytest.raises(CommandError):
        wanted.data(INCOMING)
    assert wanted.keys_file.read_text() == text


def test_a_link_to_the_keys_stays_and_what_else_their_file_holds_too(tmp_path: Path) -> None:
    (tmp_path / "vault").mkdir()
    kept = tmp_path / "vault" / "keys.json"
    kept.write_text('{"mine": {"deep": 1}}')
    kept.chmod(0o644)
    wanted = values(tmp_path)
    wanted.keys_file.symlink_to(kept)
    assert wanted.shared()
    key = wanted.data(INCOMING)["value"]
    assert wanted.keys_file.is_symlink() and not wanted.shared()
    assert json.loads(kept.read_text()) == {"mine": {"deep": 1}, "incoming_key": key}


def test_two_installs_of_one_home_do_not_run_at_once(tmp_path: Path) -> None:
    with alone(tmp_path):
        with pytest.raises(CommandError, match="Another"), alone(tmp_path):
            pass
        with alone(tmp_path / "not there yet"):
            pass
    with alone(tmp_path):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda workflow: workflow.pop("settings"),
        lambda workflow: workflow.update(nodes=5),
        lambda workflow: workflow.update(nodes=[]),
        lambda workflow: workflow.update(connections=None),
        lambda workflow: workflow["nodes"].append("rubbish"),
        lambda workflow: workflow["nodes"][0].pop("id"),
        lambda workflow: workflow["nodes"][0].update(credentials=["x"]),
    ],
)
def test_a_rubbish_workflow_is_named(tmp_path: Path, spoil: Callable[[Document], object]) -> None:
    workflow = copy.deepcopy(NIGHTLY)
    spoil(workflow)
    (tmp_path / "odd.json").write_text(json.dumps(workflow))
    with pytest.raises(CommandError, match=r"odd\.json is no workflow"):
        read_workflows(tmp_path)
    (tmp_path / "odd.json").write_text("[" * 100_000)
    with pytest.raises(CommandError, match="cannot be read as JSON"):
        read_workflows(tmp_path)


def test_the_example_has_every_credential_that_is_named_with_its_type_and_nothing_secret() -> None:
    example = json.loads((shipped_folder() / "credentials.example.json").read_text())
    assert {(each["type"], each["name"]) for each in example} == {
        FLEXDB_KEY,
        FLEXDB_SECRET,
        FLEXDB_RABBITMQ,
        INCOMING,
        FORMS,
    }
    assert set(named(SHIPPED.values())) <= {(each["type"], each["name"]) for each in example}
    assert len({each["id"] for each in example}) == len(example)
    for each in example:
        secret = {"value", "hmacSecret", "password"} & set(each["data"])
        assert all(each["data"][field].startswith("REPLACE_ME") for field in secret) and secret


# -- n8n over HTTP

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def talk(answer: Answer, work: Callable[[N8n], Awaitable[Any]], user: str = "") -> Any:
    """What `work` gives with an n8n that answers everything by `answer`."""

    async def run() -> Any:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        async with (
            TestServer(application) as server,
            N8n(f"http://{user}127.0.0.1:{server.port}", "the-api-key") as n8n,
        ):
            return await work(n8n)

    return asyncio.run(run())


def saying(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(text=text, status=status, headers=headers)

    return answer


@pytest.mark.parametrize(
    "body", [None, [], 7, {}, {"data": None}, {"data": [7]}, {"data": [{}]}, "", "<p>", "[" * 99999]
)
def test_what_is_not_n8n_is_told_so(body: Any) -> None:
    with pytest.raises(N8nAway, match="what answers is not n8n"):
        talk(saying(body), lambda n8n: n8n.greet())


def test_a_listing_and_an_answer_that_do_not_end_are_given_up() -> None:
    with pytest.raises(N8nAway, match="not n8n"):
        talk(saying({"data": [], "nextCursor": "again"}), lambda n8n: n8n.all("/workflows"))

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(300):
                await response.write(b" " * 1_000_000)
        except ConnectionError:
            pass  # the other side has had enough
        return response

    with pytest.raises(N8nAway, match="does not end"):
        talk(endless, lambda n8n: n8n.greet())


def test_a_redirect_and_a_proxy_without_n8n_are_told_as_what_they_are() -> None:
    with pytest.raises(N8nRefused, match="leads on to another address"):
        talk(saying("", 302, {"Location": "https://login.acme.test/"}), lambda n8n: n8n.greet())
    with pytest.raises(N8nRefused, match="with 502"):
        talk(saying("<h1>Bad gateway</h1>", 502), lambda n8n: n8n.greet())


def test_an_n8n_that_repeats_what_it_was_sent_shows_no_secret() -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        key = request.headers["X-N8N-API-KEY"]
        message = f"no: {await request.text()} {key} {request.headers['Authorization']} pass:word " + "x" * 9999
        return web.json_response({"message": message}, status=400)

    async def work(n8n: N8n) -> Any:
        n8n.hide("https://chat.acme.test/s3cret")
        with pytest.raises(N8nRefused) as told_in_posting:
            await n8n.call("POST", "/workflows", {"url": "https://chat.acme.test/s3cret"})
        with pytest.raises(N8nRefused) as told_in_making:
            await create(n8n, FLEXDB_KEY, {"name": "X-API-Key", "value": "t0ken-of-flexdb"})
        return [told_in_posting.value, told_in_making.value]

    for error in talk(echo, work, user="me:pass%3Aword@"):
        text = f"{error.message} {error.hint} {error.said}"
        assert len(text) < 1500 and "***" in text
        for secret in ("t0ken-of-flexdb", "the-api-key", "s3cret", "pass:word", "bWU6cGFzczp3b3Jk"):
            assert secret not in text


def test_what_a_killed_check_left_is_removed_once_it_is_old() -> None:
    now = datetime.now(UTC)
    old, young = (now - timedelta(hours=3)).isoformat(), (now - timedelta(hours=1)).isoformat()
    asked: list[str] = []
    rows = [
        {"id": "c1", "name": TEMPORARY, "type": TEMPORARY_KEY[0], "createdAt": old},
        {"id": "c2", "name": TEMPORARY, "type": TEMPORARY_KEY[0], "createdAt": young},
        {"id": "mine", "name": "mine", "type": TEMPORARY_KEY[0], "createdAt": old},
    ]

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": rows})
        asked.append(f"{request.method} {request.path.removeprefix('/api/v1')}")
        return web.json_response({})

    there = [
        {"id": "w1", "name": TEMPORARY, "createdAt": old},
        {"id": "w2", "name": TEMPORARY, "createdAt": young},
        {"id": "w3", "name": TEMPORARY},
        {"id": "mine", "name": "mine", "createdAt": old},
    ]
    known = Known({TEMPORARY_KEY: ["c1", "c2"]})
    removed, stay = talk(answer, lambda n8n: clear_away(n8n, there, known, now))
    assert (removed, stay) == (["workflow w1", "credential c1"], ["workflow w2", "workflow w3", "credential c2"])
    assert asked == ["POST /workflows/w1/deactivate", "DELETE /workflows/w1", "DELETE /credentials/c1"]


def test_a_trial_that_is_broken_off_takes_its_workflow_and_credential_away() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(f"{request.method} {request.path.removeprefix('/api/v1')}")
        return web.json_response({"id": "new"})

    async def work(n8n: N8n) -> None:
        inside = asyncio.Event()

        async def trial() -> None:
            async with lent(n8n, CHECK, "When asked to check", []):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(trial())
        await inside.wait()
        task.cancel()  # what Ctrl-C does
        await asyncio.gather(task, return_exceptions=True)

    talk(answer, work)
    assert asked[-3:] == ["POST /workflows/new/deactivate", "DELETE /workflows/new", "DELETE /credentials/new"]


def install_into(there: list[Document], tmp_path: Path, **wishes: Any) -> tuple[Any, list[tuple[str, Any]]]:
    """The steps about workflows, and what was written, in an n8n that has all credentials and these workflows."""
    written: list[tuple[str, Any]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/api/v1")
        if request.method == "GET":
            kinds = (FLEXDB_KEY, FLEXDB_SECRET, INCOMING)
            rows = [{"id": f"{which}-{name}", "type": which, "name": name} for which, name in kinds]
            return web.json_response({"data": {"/workflows": there, "/credentials": rows}.get(path, [])})
        body = await request.json() if request.can_read_body else None
        written.append((f"{request.method} {path}", body))
        return web.json_response({"id": "new", **(body if isinstance(body, dict) else {"name": "tag"})})

    async def work(n8n: N8n) -> Any:
        return await Installer(n8n, SHIPPED, Wishes(**wishes), values(tmp_path)).run()

    steps = talk(answer, work)
    return {step.name: step for step in steps if step.kind == "workflow"}, written


def test_an_update_that_was_broken_off_before_publishing_is_published_when_asked(tmp_path: Path) -> None:
    known = Known({key: [f"{key[0]}-{key[1]}"] for key in (FLEXDB_KEY, FLEXDB_SECRET, INCOMING)})
    there = {
        "id": "x",
        **merged(
            "nightly-backup", NIGHTLY, None, Place(known, version="0.1.0"), {"notifyUrl": "https://chat.acme.test"}
        ),
        "tags": NIGHTLY["tags"],
        "active": True,
        "versionId": "2",
        "activeVersionId": "1",
    }
    steps, written = install_into([there], tmp_path, only=("nightly-backup",))
    assert (steps["nightly-backup"].published, written) == (True, [])
    assert steps["nightly-backup"].note.startswith("what was saved last is not what is published")
    steps, written = install_into([there], tmp_path, only=("nightly-backup",), publish=True)
    assert steps["nightly-backup"].failed and written == []
    steps, written = install_into([there], tmp_path, only=("nightly-backup",), publish=True, overwrite=True)
    assert [what for what, _ in written] == ["POST /workflows/x/activate"] and steps["nightly-backup"].note == ""


def draft_of(*changes: Callable[[Document], None]) -> Document:
    """The nightly backup as installed and published, and saved since with these changes."""
    found = installed()
    draft = copy.deepcopy(found)
    for change in changes:
        change(draft)
    return draft | {"active": True, "versionId": "2", "activeVersionId": "1", "activeVersion": found}


def test_a_draft_is_what_would_do_something_else_than_what_is_published() -> None:
    def moved(workflow: Document) -> None:
        for node in workflow["nodes"]:
            node["position"] = [7, 7]

    def noted(workflow: Document) -> None:
        workflow["nodes"].append({"name": "Mine", "type": "n8n-nodes-base.stickyNote", "parameters": {}, "id": "x"})

    def settled(workflow: Document) -> None:
        setting_rows(workflow)[0]["value"] = "another"

    def rescheduled(workflow: Document) -> None:
        node_of(workflow, "Every night at 02:30")["parameters"]["rule"] = {"interval": [{"field": "hours"}]}

    def relinked(workflow: Document) -> None:
        node_of(workflow, "Ask for a backup")["credentials"]["httpHeaderAuth"]["id"] = "mine"

    def rebuilt(workflow: Document) -> None:
        node_of(workflow, "Ask for a backup")["parameters"]["options"]["timeout"] = 7

    assert not has_draft(draft_of()) and not has_draft(draft_of(moved, noted))
    for change in (settled, rescheduled, relinked, rebuilt):
        assert has_draft(draft_of(change)), change
        assert not has_draft(draft_of(change) | {"active": False})
        assert not has_draft(draft_of(change) | {"activeVersionId": "2"})
    assert has_draft(draft_of() | {"activeVersion": None}), "an n8n that does not show it"


def test_an_error_workflow_that_was_archived_is_no_choice(tmp_path: Path) -> None:
    errors = SHIPPED["alert-on-workflow-errors"]
    archived = {**copy.deepcopy(errors), "id": "old", "isArchived": True}
    there = installed() | {"id": "x"}
    there["settings"]["errorWorkflow"] = "old"
    _, written = install_into([archived, there], tmp_path, only=("alert-on-workflow-errors", "nightly-backup"))
    assert next(body for what, body in written if what == "PUT /workflows/x")["settings"]["errorWorkflow"] == "new"
