"""What every shipped workflow keeps to where it calls and is called: HTTP, callbacks, webhooks, queues."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from service.http.waiting import LONGEST
from tests.architecture.workflow_document import (
    OVERVIEW,
    Link,
    Node,
    Workflow,
    expressions,
    header,
    kind,
    posts_to_flexdb,
    tells_the_team,
)
from tests.architecture.workflow_rules import UUID, at, rule

READ_ONLY = ("check", "inspection", "preflight")
"""Operations that change nothing and make nothing that stays."""


# ---------------------------------------------------------------- HTTP


@rule
def http_nodes_try_again_and_tell_when_in_vain(workflow: Workflow) -> Iterator[str]:
    for node in workflow.of("httpRequest"):
        yield from _time_limits(node)
        tries, between = node.get("maxTries", 3), node.get("waitBetweenTries", 1000)
        if not node.get("retryOnFail") or not 2 <= tries <= 5 or not 1000 <= between <= 5000:
            yield f"{at(node)}: retryOnFail, maxTries 5, waitBetweenTries 5000; fewer only where somebody waits"
        if header(node, "Idempotency-Key") and (tries, between) != (5, 5000):
            yield f"{at(node)}: it makes one job however often it is sent: maxTries 5, waitBetweenTries 5000"
        if node.get("onError") != "continueErrorOutput" and not tells_the_team(node):
            yield f"{at(node)}: onError is continueErrorOutput, its second output wired to something that tells"


def _time_limits(node: Node) -> Iterator[str]:
    """A number, or where the wish to be held is worked out: 30 s more than the same, which has an upper bound."""
    timeout = node["parameters"].get("options", {}).get("timeout")
    wish = header(node, "Prefer") or ""
    worked_out = re.fullmatch(r"=\{\{ 'wait=' \+ \((.*)\) \}\}", wish)
    if worked_out:
        if timeout != f"={{{{ 30000 + 1000 * ({worked_out.group(1)}) }}}}":
            yield f"{at(node)}: options.timeout is 30000 + 1000 * the seconds of Prefer"
        most = re.search(r"Math\.min\((\d+), ", worked_out.group(1))
        if most is None or int(most.group(1)) > LONGEST:
            yield f"{at(node)}: it waits for Math.min(N, …) seconds at most, N at most {LONGEST}"
        return
    if not isinstance(timeout, int) or not 3_000 <= timeout <= 330_000:
        yield f"{at(node)}: options.timeout in milliseconds, as a number"
    wished = re.search(r"wait=(\d+)", wish)
    if wished and isinstance(timeout, int) and timeout < int(wished.group(1)) * 1000 + 10_000:
        yield f"{at(node)}: it waits {wished.group(1)} s for FlexDB; options.timeout is too short for that"


@rule
def http_nodes_speak_to_flexdb_or_to_the_team(workflow: Workflow) -> Iterator[str]:
    for node in workflow.of("httpRequest"):
        url = node["parameters"].get("url", "")
        found = re.match(r"=\{\{ \$\('Settings'\)\.first\(\)\.json\.(\w*Url\w*)( \}\}/| \+ '/| \}\}$)", url)
        if not found and not url.endswith(".resumeUrl }}"):
            yield f"{at(node)}: its URL begins with a …Url field of Settings, read from $('Settings').first().json"
        elif found and found.group(1).startswith("notifyUrl") and found.group(2) != " }}":
            yield f"{at(node)}: the URL is {found.group(1)} itself"


@rule
def asking_twice_makes_one_job(workflow: Workflow) -> Iterator[str]:
    """Calls whose route knows the header; the others mean the same when they are sent again, or have no such thing."""
    seen: dict[str, str] = {}
    for node in workflow.of("httpRequest"):
        if not posts_to_flexdb(node) or node["parameters"].get("method", "GET") == "GET":
            continue
        asked = re.search(r"/hooks/([\w-]*)|/api/(ingest)\b", node["parameters"]["url"])
        key = header(node, "Idempotency-Key")
        if asked is None:
            continue
        read_only = asked.group(1) in READ_ONLY or "mode: 'plan'" in str(node["parameters"].get("jsonBody"))
        if key is None:
            if not read_only:
                yield f"{at(node)}: send Idempotency-Key, as n8n's retries would make further jobs"
            continue
        for part in ("$workflow.id", "$execution.id", "$('Settings').first().json.startedAt"):
            if part not in key:
                yield f"{at(node)}: its Idempotency-Key lacks {part}"
        if key in seen:
            yield f"{at(node)}: its Idempotency-Key is that of {seen[key]!r}; end it with the step's own name"
        seen[key] = node["name"]


# ---------------------------------------------------------------- callbacks


def _waits(workflow: Workflow) -> list[Node]:
    return [node for node in workflow.of("wait") if node["parameters"].get("resume") == "webhook"]


def _suffix(node: Node) -> str | None:
    found = node["parameters"].get("options", {}).get("webhookSuffix")
    return found if isinstance(found, str) else None


def checks_signature(node: Node) -> bool:
    return kind(node) == "if" and any("x-flexdb-signature" in text for text in expressions(node))


def _from_flexdb(node: Node) -> bool:
    """A Wait for FlexDB's own callback, which is signed; others are resumed by another workflow, with a key."""
    return bool(node["parameters"].get("incomingAuthentication") != "headerAuth")


@rule
def callbacks_are_waited_for_where_they_are_sent(workflow: Workflow) -> Iterator[str]:
    suffixes = [_suffix(node) for node in _waits(workflow)]
    resuming = [text for node in workflow.nodes for text in expressions(node) if "$execution.resumeUrl" in text]
    for node in _waits(workflow):
        suffix = _suffix(node)
        if not suffix or suffixes.count(suffix) > 1:
            yield f"{at(node)}: options.webhookSuffix, another one for each Wait, so that no late repeat resumes it"
        elif not any(f"/{suffix}'" in text for text in resuming):
            yield f"{at(node)}: no callback_url ends with /{suffix}"
    for node in workflow.nodes:
        for text in expressions(node):
            for given in re.findall(r"callback_url: ([^,}]*)", text):
                found = re.fullmatch(r"\$execution\.resumeUrl \+ '/([\w-]+)'\s*", given)
                if not found or found.group(1) not in suffixes:
                    yield f"{at(node)}: callback_url is $execution.resumeUrl + '/…' with the webhookSuffix of a Wait"


@rule
def waiting_ends(workflow: Workflow) -> Iterator[str]:
    for node in workflow.of("wait"):
        parameters = node["parameters"]
        if parameters.get("resume") not in ("webhook", "form"):
            continue
        if parameters.get("limitWaitTime") is not True:
            yield f"{at(node)}: limitWaitTime is True"
        from_settings = re.search(r"\$\('Settings'\)\.first\(\)\.json\.\w+", str(parameters.get("resumeAmount")))
        if parameters.get("limitType") != "atSpecifiedTime" and not from_settings:
            yield f"{at(node)}: resumeAmount comes from Settings (waitHours)"
        for name in workflow.outputs(node["name"], 0):
            behind = workflow.named[name]
            if kind(behind) not in ("if", "switch"):
                yield f"{at(behind)}: right after a Wait comes the question whether anything arrived"
            elif parameters["resume"] == "webhook" and not any(".headers" in text for text in expressions(behind)):
                yield f"{at(behind)}: whether the callback arrived is told by $json.headers"
    for node in _waits(workflow):
        if node["parameters"].get("httpMethod") != "POST":
            yield f"{at(node)}: httpMethod is POST"
        if _from_flexdb(node) and node["parameters"].get("options", {}).get("rawBody") is not True:
            yield f"{at(node)}: options.rawBody, since the signature is over the bytes"


@rule
def signatures_are_checked_over_the_bytes(workflow: Workflow) -> Iterator[str]:
    waits = frozenset(node["name"] for node in workflow.of("wait"))
    for node in filter(checks_signature, workflow.nodes):
        if not any(".computedSignature" in text for text in expressions(node)):
            yield f"{at(node)}: it compares with what the Crypto node computed, $json.computedSignature"
        if not any(node["name"] in workflow.follow(found["name"], stop=waits) for found in workflow.of("crypto")):
            yield f"{at(node)}: before it comes the Crypto node"
    wanted = {"action": "hmac", "binaryData": True, "binaryPropertyName": "data", "type": "SHA256", "encoding": "hex"}
    for node in workflow.of("crypto"):
        for name, value in wanted.items():
            if node["parameters"].get(name) != value:
                yield f"{at(node)}: {name} is {value}"


@rule
def a_callback_is_believed_after_its_signature_was_checked(workflow: Workflow) -> Iterator[str]:
    checks = {node["name"]: node for node in filter(checks_signature, workflow.nodes)}
    waits = frozenset(node["name"] for node in workflow.of("wait"))
    for wait in filter(_from_flexdb, _waits(workflow)):
        unproven = _behind(workflow, wait["name"], waits, {(name, 0) for name in checks})
        if not unproven & set(checks):
            yield f"{at(wait)}: nothing behind it checks the signature"
        for name in sorted(unproven - set(checks) - {wait["name"]}):
            if any(re.search(r"\.body\b", text) for text in expressions(workflow.named[name])):
                yield f"node {name!r}: it reads the body of a callback whose signature nobody has checked"
        for name in sorted(unproven & set(checks)):
            looking = [checks[name], *(workflow.named[behind] for behind in workflow.outputs(name, 0))]
            if not any(".job_id" in text for node in looking for text in expressions(node)):
                yield f"node {name!r}: here, or right behind, compare data.job_id with the job that was accepted"


def _behind(workflow: Workflow, start: str, stop: frozenset[str], never: set[tuple[str, int]]) -> set[str]:
    """What is reached from `start` up to the next of `stop`, without going through the outputs `never`."""
    seen: set[str] = set()
    waiting: list[str] = [start]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        links: list[Link] = [link for link in workflow.links if link.source == name]
        waiting += [link.target for link in links if (name, link.output) not in never and link.target not in stop]
    return seen


@rule
def a_message_from_a_queue_is_not_held_by_waiting(workflow: Workflow) -> Iterator[str]:
    for trigger in workflow.of("rabbitmqTrigger"):
        for node in workflow.nodes:
            if node["name"] in workflow.run_from(trigger["name"]) and kind(node) in ("wait", "form"):
                yield f"{at(node)}: {trigger['name']!r} leads here; the message would stay unacknowledged"


# ---------------------------------------------------------------- calls from outside


@rule
def who_calls_a_webhook_is_known_and_answered(workflow: Workflow) -> Iterator[str]:
    for node in workflow.of("webhook"):
        parameters = node["parameters"]
        behind = workflow.follow(node["name"])
        signed = any(kind(workflow.named[name]) == "crypto" for name in behind)
        if parameters.get("authentication") != "headerAuth" and not (signed and parameters["options"].get("rawBody")):
            yield f"{at(node)}: authentication is headerAuth, or rawBody with a check of FlexDB's signature"
        if parameters.get("options", {}).get("ignoreBots"):
            yield f"{at(node)}: leave Ignore Bots off, FlexDB looks like one"
        if parameters.get("httpMethod") != "POST":
            yield f"{at(node)}: httpMethod is POST"
        if parameters.get("responseMode") != "responseNode":
            yield f"{at(node)}: responseMode is responseNode"
            continue
        answers = [
            str(workflow.named[name]["parameters"].get("options", {}).get("responseCode", 200))
            for name in behind
            if kind(workflow.named[name]) == "respondToWebhook"
        ]
        if not any(code.startswith(("2", "=")) for code in answers):
            yield f"{at(node)}: no Respond to Webhook with 2xx"
        if not any(code.startswith(("4", "5", "=")) for code in answers):
            yield f"{at(node)}: no Respond to Webhook with 4xx or 5xx for when it cannot be done"
    for node in workflow.of("formTrigger"):
        if node["parameters"].get("authentication") != "basicAuth":
            yield f"{at(node)}: authentication is basicAuth"


@rule
def who_may_be_answered_too_early_is_warned(workflow: Workflow) -> Iterator[str]:
    """n8n in queue mode answers 200 with nothing as soon as an execution waits to be called."""
    said = " ".join(note["parameters"]["content"] for note in workflow.notes if note["name"] == OVERVIEW)
    for trigger in workflow.of("webhook"):
        for node in workflow.of("wait"):
            waits = node["parameters"].get("resume") != "timeInterval"
            if waits and node["name"] in workflow.follow(trigger["name"]) and "queue mode" not in said:
                yield f"{at(node)}: {trigger['name']!r} leads here; let FlexDB hold the call, or warn of queue mode"


@rule
def nodes_that_are_called_have_a_webhook_id(workflow: Workflow) -> Iterator[str]:
    called = [*workflow.of("webhook", "form", "formTrigger"), *_waits(workflow)]
    for node in called:
        if not UUID.fullmatch(str(node.get("webhookId"))):
            yield f"{at(node)}: give it a webhookId, a UUID"
    for value, number in Counter(node.get("webhookId") for node in called).items():
        if number > 1:
            yield f"{number} nodes have the webhookId {value}"


def paths(workflow: Workflow) -> list[str]:
    """Paths that n8n listens on once the workflow is published."""
    return [
        f"{kind(node)} {node['parameters'].get('path') or node['parameters'].get('options', {}).get('path')}"
        for node in workflow.of("webhook", "formTrigger")
    ]


@rule
def webhook_paths_speak(workflow: Workflow) -> Iterator[str]:
    for path in paths(workflow):
        if not re.fullmatch(r"\w+ flexdb[a-z0-9/-]*", path):
            yield f"path {path!r}: it begins with flexdb and says what is asked for"


@rule
def a_stop_says_what_and_where(workflow: Workflow) -> Iterator[str]:
    for node in workflow.of("stopAndError"):
        message = str(node["parameters"].get("errorMessage", ""))
        if len(message) < (12 if message.startswith("=") else 25):
            yield f"{at(node)}: errorMessage says what happened, where, and what to do"


@rule
def queue_messages_are_kept_until_done(workflow: Workflow) -> Iterator[str]:
    for node in workflow.of("rabbitmqTrigger"):
        if node["parameters"].get("options", {}).get("acknowledge") not in (
            "executionFinishes",
            "executionFinishesSuccessfully",
            "laterMessageNode",
        ):
            yield f"{at(node)}: acknowledge when the execution has finished, or a message is lost with n8n"
