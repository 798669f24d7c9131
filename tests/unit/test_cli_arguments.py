"""key=value words, event streams, exit codes: the parts of the command line that need no service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from service.cli.arguments import parse_fields, parse_value, read_data
from service.cli.client import shown_url
from service.cli.doctor.configuration import examine_settings, settings_shown
from service.cli.doctor.finding import State
from service.cli.exits import CommandError, Exit, exit_of
from service.cli.following import event_of
from service.cli.output import printable, size
from service.cli.stream import EventStream, Message
from service.settings import Settings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("true", True),
        ("null", None),
        ("shop", "shop"),
        ('"3"', "3"),
        ('["a", "b"]', ["a", "b"]),
        ("", ""),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("a=b", "a=b"),
        ("{half", "{half"),
    ],
)
def test_a_value_is_json_when_it_is_json(text: str, value: Any) -> None:
    assert parse_value(text) == value


def test_dotted_keys_make_nested_objects() -> None:
    found = parse_fields(["latest.connection=shop", "latest.labels.team=a", "mode=plan", "url=http://x/?a=b"])
    assert found == {
        "latest": {"connection": "shop", "labels": {"team": "a"}},
        "mode": "plan",
        "url": "http://x/?a=b",
    }


def test_fields_are_added_to_given_data_without_changing_it() -> None:
    start = {"labels": {"a": 1}, "verify": 1}
    assert parse_fields(["labels.b=2", "verify=3"], start) == {"labels": {"a": 1, "b": 2}, "verify": 3}
    assert start == {"labels": {"a": 1}, "verify": 1}


@pytest.mark.parametrize(
    "words",
    [["connection"], ["=x"], ["a..b=1"], [".a=1"], ["a=1", "a=2"], ["a=1", "a.b=2"], ["a.b=2", "a=1"]],
)
def test_words_that_make_no_sense_are_refused(words: list[str]) -> None:
    with pytest.raises(CommandError):
        parse_fields(words)


@pytest.mark.parametrize("text", ["[1]", "{", "3", '{"a": NaN}'])
def test_data_must_be_one_json_object(tmp_path: Path, text: str) -> None:
    file = tmp_path / "data.json"
    file.write_text(text)
    with pytest.raises(CommandError):
        read_data(str(file))


def test_exit_codes_follow_the_terminal_event() -> None:
    ends = [exit_of({"type": f"backup.{stage}"}) for stage in ("completed", "failed", "canceled", "strange")]
    assert ends == [Exit.COMPLETED, Exit.FAILED, Exit.CANCELED, Exit.FAILED]
    assert exit_of(None) == Exit.RUNNING
    assert [int(code) for code in Exit] == [0, 1, 2, 3, 4, 130]


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_job_that_has_not_ended_has_no_terminal_event(status: str) -> None:
    assert event_of({"job_id": "j", "operation": "backup", "status": status}) is None


def test_the_terminal_event_of_an_ended_job_carries_its_result_flat() -> None:
    event = event_of({"job_id": "j", "operation": "backup", "status": "succeeded", "result": {"level": 2}})
    assert event is not None
    assert (event["type"], event["id"], event["data"]["level"]) == ("backup.completed", "j/terminal", 2)
    assert "subject" not in event
    assert "error" not in event["data"]


STREAM = (
    b': hello\r\n\r\nid: 7\nevent: backup.started\ndata: {"a":\ndata: 1}\n\n\rdata:x\r\rid: 8\ndata: \xc3\xa4\r\n\r\n'
)
MESSAGES = [
    Message("backup.started", '{"a":\n1}', "7"),
    Message("message", "x", "7"),
    Message("message", "ä", "8"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_an_event_stream_reads_the_same_however_it_is_cut(cuts: list[int]) -> None:
    stream, begin = EventStream(), 0
    seen: list[Message] = []
    for cut in [*sorted(cuts), len(STREAM)]:
        seen += stream.feed(STREAM[begin:cut])
        begin = cut
    assert seen == MESSAGES


def test_a_message_cut_off_by_the_end_of_the_stream_is_not_shown() -> None:
    assert list(EventStream().feed(b"data: half\n")) == []


def test_what_is_printed_holds_no_control_characters() -> None:
    assert printable("a\x1b[2Jb\tc\u202e") == "a\\x1b[2Jb\\tc\\u202e"
    assert printable({"a": [1]}) == '{"a": [1]}'


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, ""), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_850_000, "12.8 MB"), (4e15, "4000.0 TB")],
)
def test_sizes_for_people(count: float | None, text: str) -> None:
    assert size(count) == text


def test_urls_are_shown_without_user_and_password() -> None:
    assert shown_url("http://user:p@ss@host:1/a@b") == "http://host:1/a@b"
    assert shown_url("http://host/x") == "http://host/x"


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


def test_settings_are_shown_without_secrets() -> None:
    shown = settings_shown(
        settings(
            token=SecretStr("hush"),
            connections={"shop": SecretStr("postgresql://u:hush@h/d")},
            webhook_secret=SecretStr("hush"),
            url="http://u:hush@host",
            scratch={"shop": "shop"},
        )
    )
    assert "hush" not in json.dumps(shown)
    assert shown["FLEXDB_CONNECTIONS__SHOP"] == shown["FLEXDB_TOKEN"] == "***"
    assert shown["FLEXDB_SCRATCH__SHOP"] == "shop"


@pytest.mark.parametrize(
    ("given_settings", "name"),
    [
        ({"host": "0.0.0.0"}, "FLEXDB_HOST"),
        ({"heartbeat_seconds": 20.0}, "FLEXDB_HEARTBEAT_SECONDS"),
        (
            {"scratch": {"shop": "nowhere"}, "connections": {"shop": SecretStr("sqlite:////x")}},
            "FLEXDB_SCRATCH__SHOP",
        ),
        ({"webhook_secret": SecretStr("whsec_short")}, "FLEXDB_WEBHOOK_SECRET"),
        ({"webhook_jwt_secret": SecretStr("x" * 31)}, "FLEXDB_WEBHOOK_JWT_SECRET"),
        ({"sources": {"n8n": SecretStr("whsec_abc")}}, "FLEXDB_SOURCES__N8N"),
        ({"ledger_url": SecretStr("mysql://x/y")}, "FLEXDB_LEDGER_URL"),
    ],
)
def test_settings_that_cannot_work_are_found(given_settings: dict[str, Any], name: str) -> None:
    found = examine_settings(settings(**given_settings), {})
    assert [(finding.name, finding.state) for finding in found] == [(name, State.FAILS)]
    assert found[0].mend


def test_good_settings_make_one_good_finding() -> None:
    secret = SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = examine_settings(
        settings(webhook_secret=secret, host="0.0.0.0", token=SecretStr("x")), {"FLEXDB_HOME": "x"}
    )
    assert [finding.state for finding in found] == [State.OK]
