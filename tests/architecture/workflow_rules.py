"""What every shipped workflow keeps to, as functions that tell the faults: which node, and what to do."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator

from tests.architecture.workflow_document import (
    BY_HAND,
    FOLDER,
    SETTINGS,
    Node,
    Workflow,
    assignments,
    expressions,
    header,
    kind,
    node_references,
    posts_to_flexdb,
    texts,
)

Rule = Callable[[Workflow], Iterator[str]]
RULES: dict[str, Rule] = {}

FLEXDB_URL = "http://127.0.0.1:8080"
NOTIFY_URL = "https://chat.example.org/hooks/REPLACE_ME"
ERROR_WORKFLOW = "flexdbErrorAlerts"
KEYS = {"id", "name", "description", "nodes", "connections", "settings", "active", "pinData", "meta", "tags"}

VERSIONS: dict[str, tuple[float, str]] = {
    "webhook": (2, "1.121"),
    "httpRequest": (4.2, "1.121"),
    "scheduleTrigger": (1.2, "1.121"),
    "wait": (1.1, "1.121"),
    "if": (2.2, "1.121"),
    "filter": (2.2, "1.121"),
    "switch": (3.2, "1.121"),
    "set": (3.4, "1.121"),
    "respondToWebhook": (1.1, "1.121"),
    "crypto": (2, "2.8"),
    "rabbitmq": (1.1, "1.121"),
    "rabbitmqTrigger": (1, "1.121"),
    "errorTrigger": (1, "1.121"),
    "stickyNote": (1, "1.121"),
    "manualTrigger": (1, "1.121"),
    "noOp": (1, "1.121"),
    "stopAndError": (1, "1.121"),
    "splitInBatches": (3, "1.121"),
    "splitOut": (1, "1.121"),
    "aggregate": (1, "1.121"),
    "merge": (3, "1.121"),
    "form": (2.3, "1.121"),
    "formTrigger": (2.2, "1.121"),
    "compareDatasets": (2.3, "1.121"),
    "removeDuplicates": (2, "1.121"),
    "executeWorkflow": (1.2, "1.121"),
    "executeWorkflowTrigger": (1.1, "1.121"),
}
"""Node types, the one version that is shipped, and the oldest n8n that is known to have it: crypto 2 decides, 2.8."""

CREDENTIALS = {
    "FlexDB API key": "httpHeaderAuth",
    "FlexDB webhook secret": "crypto",
    "FlexDB RabbitMQ": "rabbitmq",
    "n8n incoming webhooks": "httpHeaderAuth",
    "n8n forms": "httpBasicAuth",
}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
FORBIDDEN = ("$env", "$vars", "$secrets", "$credentials")
SECRETS = re.compile(
    r"Bearer \w|whsec_\w|-----BEGIN|eyJ[\w-]{10,}\.|\b(?:AKIA|ghp_|xox[abp]-)\w+|\b[0-9a-fA-F]{32,}\b|://[^/\s:'\"{}]+:[^/\s@'\"{}]+@"
)
PERSONAL = re.compile(r"[\w.+-]+@(?!example\.(?:org|com|net)\b)[\w-]+\.[\w.]+|/home/\w|/Users/\w|/root/")
PROPER_NAMES = {
    *("FlexDB", "RabbitMQ", "PostgreSQL", "MySQL", "MariaDB", "MongoDB", "SQLite", "Redis"),
    *("API", "CSV", "HTTP", "JSON", "NDJSON", "SQL", "URL", "I"),
}
DEFAULT_NAMES = re.compile(
    r"(?:HTTP Request|Edit Fields|Set|If|IF|Switch|Filter|Webhook|Wait|Crypto|Code|Merge|Aggregate|Split Out"
    r"|Loop Over Items|RabbitMQ(?: Trigger)?|Schedule Trigger|No Operation.*|Stop and Error|Respond to Webhook"
    r"|Form(?: Trigger)?|On form submission|n8n Form Trigger|Compare Datasets|Error Trigger|When clicking.*)\d*"
)
ON_THE_WAY_IN = {"respondToWebhook", "stopAndError", "crypto", "if", "executeWorkflow"}
"""What a run by hand need not come to: a caller's signature is looked at, and callers are answered."""
OPEN_PATHS = ("/readyz", "/livez")
"""They ask for no token."""


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


def at(node: Node) -> str:
    return f"node {node['name']!r}"


# ---------------------------------------------------------------- the file


@rule
def the_file_is_named_and_written_as_all_are(workflow: Workflow) -> Iterator[str]:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", workflow.stem):
        yield "the file's name: small letters, digits and dashes"
    if unknown := set(workflow.document) - KEYS:
        yield f"leave {sorted(unknown)} out at the top level"
    path = FOLDER / f"{workflow.stem}.json"
    if (
        path.exists()
        and path.read_text() != json.dumps(json.loads(path.read_text()), indent=2, ensure_ascii=False) + "\n"
    ):
        yield "write the file with two spaces a level, no escaped letters, one line end at its end"


@rule
def the_id_is_fixed_and_short(workflow: Workflow) -> Iterator[str]:
    wanted = r"flexdb[A-Z][A-Za-z0-9]{0,14}"
    if not re.fullmatch(wanted, workflow.document["id"]):
        yield f"id {workflow.document['id']!r}: `flexdb` and CamelCase, at most 21 characters"


@rule
def the_name_is_a_sentence(workflow: Workflow) -> Iterator[str]:
    name = workflow.document["name"]
    words = re.findall(r"[\w'-]+", name)
    if not name.isascii() or name.endswith(".") or not 3 <= len(words) <= 16 or len(name) > 90:
        yield f"name {name!r}: 3 to 16 words, no emoji, no full stop"
    if not name[:1].isupper() or [word for word in words[1:] if word[:1].isupper() and word not in PROPER_NAMES]:
        yield f"name {name!r}: sentence case, a capital for the first word and proper names only"


@rule
def the_description_says_why(workflow: Workflow) -> Iterator[str]:
    text = workflow.document.get("description", "")
    if not 60 <= len(text) <= 400 or not text.endswith("."):
        yield "description: one to three sentences that say why, 60 to 400 characters"


@rule
def tags_are_few_and_small(workflow: Workflow) -> Iterator[str]:
    tags = [tag["name"] for tag in workflow.document.get("tags", [])]
    if not 2 <= len(tags) <= 4 or tags[0] != "flexdb" or any(tag != tag.lower() for tag in tags):
        yield f"tags {tags}: two to four in small letters, the first is flexdb"
    # n8n's import of a folder makes a tag without an id anew for each file, and stops at the second file that has it.
    if any(tag.get("id") != f"flexdb-tag-{tag['name']}" or len(tag) > 2 for tag in workflow.document.get("tags", [])):
        yield "tags: each is an id flexdb-tag-NAME and a name"


@rule
def it_is_shipped_inactive_and_without_data(workflow: Workflow) -> Iterator[str]:
    if workflow.document.get("active") is not False or workflow.document.get("pinData") != {}:
        yield "active is false and pinData {}"
    if workflow.document.get("meta") != {"templateCredsSetupCompleted": False}:
        yield "meta is {templateCredsSetupCompleted: false}: no instance id"


@rule
def its_settings_are_complete(workflow: Workflow) -> Iterator[str]:
    settings = workflow.document.get("settings", {})
    wanted = {"executionOrder": "v1", "saveDataErrorExecution": "all", "saveDataSuccessExecution": "all"}
    for name, value in wanted.items():
        if settings.get(name) != value:
            yield f"settings.{name} is {value}"
    if not re.fullmatch(r"[A-Z]\w+/\w+", settings.get("timezone", "")):
        yield "settings.timezone is explicit: Etc/UTC"


@rule
def failures_go_to_the_error_workflow(workflow: Workflow) -> Iterator[str]:
    named = workflow.document["settings"].get("errorWorkflow")
    if workflow.document["id"] == ERROR_WORKFLOW:
        if named is not None:
            yield "the error workflow does not name itself"
    elif named != ERROR_WORKFLOW:
        yield f"settings.errorWorkflow is {ERROR_WORKFLOW}"
    elif named not in workflow.others:
        yield f"there is no workflow with the id {named}"


# ---------------------------------------------------------------- the graph


@rule
def names_and_ids_of_nodes_are_unique(workflow: Workflow) -> Iterator[str]:
    for what in ("name", "id"):
        for value, number in Counter(node[what] for node in workflow.all_nodes).items():
            if number > 1:
                yield f"{number} nodes have the {what} {value!r}"
    for node in workflow.all_nodes:
        if not UUID.fullmatch(node["id"]):
            yield f"{at(node)}: its id is a UUID"


@rule
def nodes_are_renamed_to_what_they_do(workflow: Workflow) -> Iterator[str]:
    for node in workflow.nodes:
        if DEFAULT_NAMES.fullmatch(node["name"]):
            yield f"{at(node)}: give it a name that says what it does"
        if len(node["name"].split()) > 8 or node["name"] != node["name"].strip():
            yield f"{at(node)}: two to six words"


@rule
def links_lead_from_nodes_to_nodes(workflow: Workflow) -> Iterator[str]:
    known = {node["name"] for node in workflow.nodes}
    for source, outputs in workflow.document["connections"].items():
        if source not in known:
            yield f"connections: there is no node {source!r}"
        if set(outputs) != {"main"}:
            yield f"connections of {source!r}: `main` only"
    for link in workflow.links:
        if link.target not in known:
            yield f"connection {link.source!r} → {link.target!r}: there is no such node"
    for link, number in Counter(workflow.links).items():
        if number > 1:
            yield f"connection {link.source!r} → {link.target!r}: it is there {number} times"


@rule
def every_node_is_reached_from_a_trigger(workflow: Workflow) -> Iterator[str]:
    reached = workflow.follow(*(node["name"] for node in workflow.triggers))
    for node in workflow.nodes:
        if node["name"] not in reached:
            yield f"{at(node)}: nothing leads there; connect or remove it"
        elif node.get("disabled"):
            yield f"{at(node)}: it is disabled"


@rule
def every_output_of_a_choice_leads_somewhere(workflow: Workflow) -> Iterator[str]:
    for node in workflow.of("if", "switch", "splitInBatches"):
        outputs = 2
        if kind(node) == "switch":
            outputs = len(node["parameters"]["rules"]["values"]) + 1
            if node["parameters"].get("options", {}).get("fallbackOutput") != "extra":
                yield f"{at(node)}: options.fallbackOutput is `extra`, so that nothing is lost"
        for output in range(outputs):
            if not workflow.outputs(node["name"], output):
                yield f"{at(node)}: output {output} leads nowhere; end it in a speaking noOp or Stop and Error"


@rule
def every_error_output_leads_somewhere(workflow: Workflow) -> Iterator[str]:
    for node in workflow.nodes:
        if node.get("onError") == "continueErrorOutput":
            last = {"if": 2, "compareDatasets": 4}.get(kind(node), 1)
            if not workflow.outputs(node["name"], last):
                yield f"{at(node)}: its error output leads nowhere"
        elif node.get("onError") == "continueRegularOutput":
            for name in workflow.outputs(node["name"], 0):
                if not any(re.search(r"\$json\.(error|success)\b", text) for text in expressions(workflow.named[name])):
                    yield f"node {name!r}: {node['name']!r} goes on after a failure, so ask for $json.error here"
        elif node.get("onError") not in (None, "stopWorkflow") or node.get("continueOnFail"):
            yield f"{at(node)}: no failure is passed over; onError is continueErrorOutput or left out"


@rule
def it_runs_by_hand_the_way_it_runs_by_itself(workflow: Workflow) -> Iterator[str]:
    if [node["name"] for node in workflow.of("manualTrigger")] != [BY_HAND]:
        yield f"one Manual Trigger, named {BY_HAND!r}"
        return
    for node in workflow.triggers:
        if SETTINGS not in workflow.follow(node["name"]):
            yield f"{at(node)}: it does not lead to the node Settings"
    if len(workflow.triggers) > 1:
        by_hand = workflow.follow(BY_HAND)
        real = workflow.follow(*(node["name"] for node in workflow.triggers if node["name"] != BY_HAND))
        for node in workflow.nodes:
            name = node["name"]
            if name in real - by_hand and node not in workflow.triggers and kind(node) not in ON_THE_WAY_IN:
                yield f"{at(node)}: a run by hand never comes there"


# ---------------------------------------------------------------- settings and expressions


@rule
def what_users_change_is_in_settings(workflow: Workflow) -> Iterator[str]:
    found = [node for node in workflow.of("set") if node["name"] == SETTINGS]
    if len(found) != 1:
        yield "one Set node named Settings"
        return
    fields = list(workflow.settings)
    if not fields or fields[-1] != "startedAt" or workflow.settings["startedAt"] != "={{ $now.toMillis() }}":
        yield "Settings: its last field is startedAt, ={{ $now.toMillis() }}"
    for name, default in (("flexdbUrl", FLEXDB_URL), ("notifyUrl", NOTIFY_URL)):
        if workflow.settings.get(name, default) != default:
            yield f"Settings: {name} is {default}"
    if "flexdbUrl" not in fields and workflow.document["id"] != ERROR_WORKFLOW:
        yield "Settings: flexdbUrl is missing"
    others = [text for node in workflow.nodes if node["name"] != SETTINGS for text in expressions(node)]
    for name in fields[:-1]:
        if not any(re.search(rf"\.{re.escape(name)}\b|\[['\"]{re.escape(name)}['\"]\]", text) for text in others):
            yield f"Settings: nothing uses {name}"


@rule
def addresses_stand_in_settings_only(workflow: Workflow) -> Iterator[str]:
    for node in workflow.nodes:
        if node["name"] == SETTINGS or node["name"].startswith("Example"):
            continue
        for text in texts(node["parameters"]):
            if re.search(r"https?://\w|127\.0\.0\.1|localhost|\bexample\.(org|com)", text):
                yield f"{at(node)}: put the address {text[:60]!r} into Settings"


@rule
def expressions_speak_of_nodes_that_are_there(workflow: Workflow) -> Iterator[str]:
    for node in workflow.nodes:
        for text in expressions(node):
            for name in node_references(text) - set(workflow.named):
                yield f"{at(node)}: its expression names {name!r}, which is no node of this workflow"
        for text in texts(node["parameters"]):
            if "{{" in text and not text.startswith("="):
                yield f"{at(node)}: {text[:60]!r} is not evaluated; begin it with ="


@rule
def nothing_is_used_that_a_plain_n8n_lacks(workflow: Workflow) -> Iterator[str]:
    for node in workflow.all_nodes:
        if not node["type"].startswith("n8n-nodes-base."):
            yield f"{at(node)}: {node['type']} is not among n8n's own nodes"
        elif kind(node) not in VERSIONS:
            yield f"{at(node)}: the type {kind(node)} is not in the table VERSIONS"
        elif node["typeVersion"] != VERSIONS[kind(node)][0]:
            yield f"{at(node)}: {kind(node)} is shipped in version {VERSIONS[kind(node)][0]}"
        for text in texts(node["parameters"]):
            for word in FORBIDDEN:
                if kind(node) != "stickyNote" and word in text:
                    yield f"{at(node)}: no {word}; put the value into Settings or a credential"


# ---------------------------------------------------------------- credentials and secrets


def _wanted_credential(node: Node) -> str | None:
    """The credential that such a node has to name."""
    parameters = node["parameters"]
    by_kind = {"crypto": "FlexDB webhook secret", "rabbitmq": "FlexDB RabbitMQ", "rabbitmqTrigger": "FlexDB RabbitMQ"}
    if kind(node) in by_kind:
        return by_kind[kind(node)]
    if kind(node) == "httpRequest" and posts_to_flexdb(node):
        return None if parameters["url"].endswith(OPEN_PATHS) else "FlexDB API key"
    if "headerAuth" in (parameters.get("authentication"), parameters.get("incomingAuthentication")) or (
        kind(node) == "httpRequest" and parameters["url"].endswith(".resumeUrl }}")
    ):
        return "n8n incoming webhooks"
    if parameters.get("incomingAuthentication") == "basicAuth":
        return "n8n forms"
    return "n8n forms" if kind(node) == "formTrigger" else None


@rule
def credentials_have_fixed_names_and_no_ids(workflow: Workflow) -> Iterator[str]:
    for node in workflow.all_nodes:
        for type_name, credential in node.get("credentials", {}).items():
            if CREDENTIALS.get(credential.get("name")) != type_name:
                yield f"{at(node)}: {credential.get('name')!r} of type {type_name} is not among the fixed credentials"
            if credential.get("id", "") is not None:
                yield f"{at(node)}: the id of a credential is null; n8n finds it by its name"
        wanted = _wanted_credential(node)
        named = {credential.get("name") for credential in node.get("credentials", {}).values()}
        if named != ({wanted} if wanted else set()):
            yield f"{at(node)}: its credential is {wanted or 'none'}"


@rule
def credentials_are_in_the_example_file(workflow: Workflow) -> Iterator[str]:
    used = {
        (credential["name"], type_name)
        for node in workflow.all_nodes
        for type_name, credential in node.get("credentials", {}).items()
    }
    path = FOLDER / "credentials.example.json"
    listed = {(row["name"], row["type"]) for row in json.loads(path.read_text())} if path.exists() else set()
    for name, type_name in sorted(used - listed):
        yield f"{path.name} does not list {name!r} of type {type_name}"


@rule
def no_secret_and_nobodys_name_is_inside(workflow: Workflow) -> Iterator[str]:
    for node in workflow.all_nodes:
        for text in texts(node["parameters"]):
            for pattern, what in ((SECRETS, "a secret"), (PERSONAL, "somebody's address")):
                if found := pattern.search(text):
                    yield f"{at(node)}: {found.group()[:30]!r} looks like {what}"
        for name in ("Authorization", "X-API-Key"):
            if kind(node) == "httpRequest" and header(node, name) is not None:
                yield f"{at(node)}: {name} comes from a credential"


@rule
def set_nodes_name_their_fields_once(workflow: Workflow) -> Iterator[str]:
    for node in workflow.of("set"):
        rows = assignments(node)
        for name, number in Counter(row["name"] for row in rows).items():
            if number > 1:
                yield f"{at(node)}: the field {name} is there {number} times"
        if not rows and node["parameters"].get("mode") != "raw":
            yield f"{at(node)}: it sets nothing"
