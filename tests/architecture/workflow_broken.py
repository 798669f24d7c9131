"""For each rule a workflow that breaks it, made from a good one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tests.architecture.workflow_document import OVERVIEW, Document, Node, kind

Break = Callable[[Document], object]


def _node(document: Document, wanted: str, number: int = 0) -> Node:
    found: Node = [node for node in document["nodes"] if kind(node) == wanted][number]
    return found


def _named(document: Document, name: str) -> Node:
    found: Node = next(node for node in document["nodes"] if node["name"] == name)
    return found


def _added(document: Document, wanted: str, parameters: dict[str, Any], **more: Any) -> Node:
    """One more node, leading to Settings."""
    made: Node = {
        "parameters": parameters,
        "id": "00000000-0000-4000-8000-000000000000",
        "name": "One more",
        "type": f"n8n-nodes-base.{wanted}",
        "typeVersion": 1,
        "position": [0, 2000],
        **more,
    }
    document["nodes"].append(made)
    document["connections"]["One more"] = {"main": [[{"node": "Settings", "type": "main", "index": 0}]]}
    return made


def _links(document: Document, wanted: str, number: int = 0) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = document["connections"][_node(document, wanted, number)["name"]]["main"]
    return found


def _frame(document: Document) -> Node:
    found: Node = next(node for node in document["nodes"] if kind(node) == "stickyNote" and node["name"] != OVERVIEW)
    return found


def _believe_at_once(document: Document) -> None:
    """The callback goes past the check of its signature."""
    checked = next(node for node in document["nodes"] if "x-flexdb-signature" in str(node["parameters"]))
    behind = document["connections"][checked["name"]]["main"][0]
    document["connections"][_node(document, "wait")["name"]]["main"][0] = behind


def _without_key(document: Document) -> None:
    for node in document["nodes"]:
        if "/hooks/" in str(node["parameters"].get("url")):
            del node["parameters"]["headerParameters"]


def _twice(document: Document) -> None:
    rows = _named(document, "Settings")["parameters"]["assignments"]["assignments"]
    rows.append(rows[0])


BROKEN: dict[str, Break] = {
    "the_file_is_named_and_written_as_all_are": lambda it: it.update(versionId="1"),
    "the_id_is_fixed_and_short": lambda it: it.update(id="nightly"),
    "the_name_is_a_sentence": lambda it: it.update(name="Nightly Backup Of All"),
    "the_description_says_why": lambda it: it.update(description="Backups."),
    "tags_are_few_and_small": lambda it: it.update(tags=[{"name": "Backup"}]),
    "it_is_shipped_inactive_and_without_data": lambda it: it.update(active=True),
    "its_settings_are_complete": lambda it: it["settings"].pop("timezone"),
    "failures_go_to_the_error_workflow": lambda it: it["settings"].update(errorWorkflow="another"),
    "names_and_ids_of_nodes_are_unique": lambda it: it["nodes"][1].update(id=it["nodes"][0]["id"]),
    "nodes_are_renamed_to_what_they_do": lambda it: _node(it, "httpRequest").update(name="HTTP Request1"),
    "links_lead_from_nodes_to_nodes": lambda it: _links(it, "if")[0][0].update(node="Nobody"),
    "every_node_is_reached_from_a_trigger": lambda it: _added(it, "noOp", {}),
    "every_output_of_a_choice_leads_somewhere": lambda it: _links(it, "if")[1].clear(),
    "every_error_output_leads_somewhere": lambda it: _links(it, "httpRequest")[1].clear(),
    "it_runs_by_hand_the_way_it_runs_by_itself": lambda it: it["connections"].pop("Run by hand"),
    "what_users_change_is_in_settings": lambda it: _named(it, "Settings")["parameters"]["assignments"][
        "assignments"
    ].pop(),
    "addresses_stand_in_settings_only": lambda it: _node(it, "httpRequest")["parameters"].update(
        url="http://127.0.0.1:8080/hooks/backup"
    ),
    "expressions_speak_of_nodes_that_are_there": lambda it: _node(it, "stopAndError")["parameters"].update(
        errorMessage="={{ $('Nobody').first().json.text }}"
    ),
    "nothing_is_used_that_a_plain_n8n_lacks": lambda it: _node(it, "noOp").update(type="n8n-nodes-base.code"),
    "credentials_have_fixed_names_and_no_ids": lambda it: _node(it, "crypto")["credentials"]["crypto"].update(id="7"),
    "credentials_are_in_the_example_file": lambda it: _node(it, "crypto")["credentials"]["crypto"].update(name="mine"),
    "no_secret_and_nobodys_name_is_inside": lambda it: _node(it, "stopAndError")["parameters"].update(
        errorMessage="=Ask with Authorization: Bearer abc"
    ),
    "http_nodes_try_again_and_tell_when_in_vain": lambda it: _node(it, "httpRequest")["parameters"].update(options={}),
    "http_nodes_speak_to_flexdb_or_to_the_team": lambda it: _node(it, "httpRequest")["parameters"].update(
        url="={{ $json.url }}"
    ),
    "asking_twice_makes_one_job": _without_key,
    "callbacks_are_waited_for_where_they_are_sent": lambda it: _node(it, "wait")["parameters"]["options"].update(
        webhookSuffix="other"
    ),
    "waiting_ends": lambda it: _node(it, "wait")["parameters"].update(limitWaitTime=False),
    "signatures_are_checked_over_the_bytes": lambda it: _node(it, "crypto")["parameters"].update(binaryData=False),
    "a_callback_is_believed_after_its_signature_was_checked": _believe_at_once,
    "a_message_from_a_queue_is_not_held_by_waiting": lambda it: _added(it, "rabbitmqTrigger", {"queue": "q"}),
    "who_calls_a_webhook_is_known_and_answered": lambda it: _added(it, "webhook", {"path": "flexdb", "options": {}}),
    "who_may_be_answered_too_early_is_warned": lambda it: _added(it, "webhook", {"path": "flexdb", "options": {}}),
    "nodes_that_are_called_have_a_webhook_id": lambda it: _node(it, "wait").pop("webhookId"),
    "webhook_paths_speak": lambda it: _added(it, "webhook", {"path": "t1", "options": {}}),
    "a_stop_says_what_and_where": lambda it: _node(it, "stopAndError")["parameters"].update(errorMessage="failed"),
    "queue_messages_are_kept_until_done": lambda it: _added(it, "rabbitmqTrigger", {"queue": "q", "options": {}}),
    "set_nodes_name_their_fields_once": _twice,
    "nodes_stand_on_the_grid": lambda it: it["nodes"][0].update(position=[5, 0]),
    "nodes_do_not_lie_on_each_other": lambda it: it["nodes"][0].update(position=it["nodes"][1]["position"]),
    "notes_do_not_lie_on_each_other": lambda it: _frame(it).update(position=_named(it, OVERVIEW)["position"]),
    "the_overview_tells_everything_at_the_left": lambda it: _named(it, OVERVIEW)["parameters"].update(content="## It"),
    "text_fits_its_note": lambda it: _named(it, OVERVIEW)["parameters"].update(height=100),
    "frames_stand_around_nodes": lambda it: _frame(it)["parameters"].update(color=3),
}


def broken(document: Document, name: str) -> Document:
    """A copy that breaks the rule `name`."""
    made = copy.deepcopy(document)
    BROKEN[name](made)
    return made
