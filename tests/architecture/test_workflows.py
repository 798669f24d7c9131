"""Every shipped n8n workflow keeps to the rules of its kind, and asks of FlexDB only what FlexDB takes and answers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest

from handlers.registry import handler_classes
from tests.architecture import workflow_canvas  # noqa: F401  because it brings rules of its own
from tests.architecture.workflow_broken import BROKEN, broken
from tests.architecture.workflow_call_rules import paths
from tests.architecture.workflow_document import FOLDER, Workflow, read_shipped
from tests.architecture.workflow_flow import Flow
from tests.architecture.workflow_requests import asked_for, broken_expressions, refused_calls, unknown_fields
from tests.architecture.workflow_rules import CREDENTIALS, RULES

SHIPPED = {workflow.stem: workflow for workflow in read_shipped()}
GOOD = SHIPPED["nightly-backup"]
every_workflow = pytest.mark.parametrize("stem", SHIPPED)


@cache
def flow(stem: str) -> Flow:
    return Flow(SHIPPED[stem])


def told(faults: list[str]) -> str:
    return "\n" + "\n".join(faults)


# ---------------------------------------------------------------- rules


@every_workflow
@pytest.mark.parametrize("name", RULES)
def test_it_keeps_the_rule(name: str, stem: str) -> None:
    faults = list(RULES[name](SHIPPED[stem]))
    assert not faults, told(faults)


@pytest.mark.parametrize("name", RULES)
def test_a_workflow_that_breaks_the_rule_is_told_of(name: str) -> None:
    good = set(RULES[name](GOOD))
    bad = set(RULES[name](Workflow(GOOD.stem, broken(GOOD.document, name), GOOD.others)))
    assert bad - good


def test_every_rule_is_shown_to_be_able_to_fail() -> None:
    assert set(BROKEN) == set(RULES)


def test_nothing_is_shared_that_n8n_wants_for_one_workflow_alone() -> None:
    documents = [workflow.document for workflow in SHIPPED.values()]
    taken = [
        *(document["id"] for document in documents),
        *(document["name"] for document in documents),
        *(path for workflow in SHIPPED.values() for path in paths(workflow)),
        *(node["webhookId"] for document in documents for node in document["nodes"] if "webhookId" in node),
        *(f"node {node['id']}" for document in documents for node in document["nodes"]),
    ]
    assert not [value for value, number in Counter(taken).items() if number > 1]


# ---------------------------------------------------------------- the service's own contract


@every_workflow
def test_flexdb_takes_what_it_is_asked(stem: str) -> None:
    faults = refused_calls(flow(stem))
    assert not faults, told(faults)


@every_workflow
def test_what_is_read_is_what_flexdb_says(stem: str) -> None:
    faults = unknown_fields(flow(stem))
    assert not faults, told(faults)


@every_workflow
def test_its_expressions_are_javascript_with_names_that_there_are(stem: str) -> None:
    faults = broken_expressions(flow(stem))
    assert not faults, told(faults)


Finds = Callable[[Flow], list[str]]


@pytest.mark.parametrize(
    ("stem", "finds", "written", "instead"),
    [
        ("scheduled-ingest", refused_calls, "max_rejected: ", "most_rejected: "),
        ("scheduled-ingest", refused_calls, "on_conflict: 'reject'", "on_conflict: 'refuse'"),
        ("scheduled-ingest", refused_calls, "/hooks/ingest", "/hooks/ingests"),
        ("scheduled-ingest", refused_calls, "/jobs/{{", "/job/{{"),
        ("scheduled-ingest", refused_calls, "/rejected?limit=", "/rejected?lines="),
        ("scheduled-ingest", unknown_fields, "$json.body.data.inserted", "$json.body.data.added"),
        ("scheduled-ingest", unknown_fields, "first().json.job_id", "first().json.jobid"),
        ("scheduled-ingest", unknown_fields, "json.waitHours", "json.hoursToWait"),
        ("scheduled-ingest", unknown_fields, "$json.body.data.error?.code", "$json.body.data.problem?.code"),
        ("scheduled-ingest", broken_expressions, "Math.max($('Settings')", "Math.max(§('Settings')"),
        ("scheduled-ingest", broken_expressions, "JSON.stringify({ collection", "JSON.stringify({{ collection"),
        ("calculator-over-rabbitmq", refused_calls, "calculation.requested", "calculating.requested"),
        ("calculator-over-rabbitmq", refused_calls, '"messageId"', '"otherId"'),
    ],
)
def test_a_name_that_flexdb_does_not_have_is_told_of(stem: str, finds: Finds, written: str, instead: str) -> None:
    text = json.dumps(SHIPPED[stem].document, ensure_ascii=False)
    assert written in text
    assert finds(Flow(Workflow(stem, json.loads(text.replace(written, instead)))))
    assert not finds(flow(stem))


@pytest.mark.parametrize("operation", sorted(handler_classes()))
def test_an_operation_is_asked_for_by_a_workflow(operation: str) -> None:
    asking = [stem for stem in SHIPPED if operation in asked_for(flow(stem))]
    assert asking, f"add a workflow that asks for {operation}"


# ---------------------------------------------------------------- words and credentials


def test_the_readme_lists_every_workflow_and_no_other() -> None:
    text = (FOLDER / "README.md").read_text()
    listed = re.findall(r"^\| *\[?`?([a-z0-9-]+)\.json", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted(SHIPPED)


def test_the_example_of_credentials_has_those_that_workflows_name_and_no_other() -> None:
    listed = {row["name"]: row["type"] for row in json.loads((FOLDER / "credentials.example.json").read_text())}
    used = {
        credential["name"]: type_name
        for workflow in SHIPPED.values()
        for node in workflow.nodes
        for type_name, credential in node.get("credentials", {}).items()
    }
    assert listed == used == {name: CREDENTIALS[name] for name in used}
