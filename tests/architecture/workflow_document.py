"""A shipped n8n workflow as the tests read it: nodes, links, what reaches what, expressions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "n8n_workflows"
NOT_WORKFLOWS = frozenset({"credentials.example"})
SETTINGS = "Settings"
OVERVIEW = "Note: overview"
BY_HAND = "Run by hand"

Document = dict[str, Any]
Node = dict[str, Any]


@dataclass(frozen=True)
class Link:
    """From an output of a node to an input of another."""

    source: str
    output: int
    target: str
    target_input: int


@dataclass(frozen=True)
class Workflow:
    """`stem` is the file's name without its ending; `others` are the ids of all shipped workflows."""

    stem: str
    document: Document
    others: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<{self.stem}>"

    @property
    def all_nodes(self) -> list[Node]:
        return list(self.document["nodes"])

    @cached_property
    def notes(self) -> list[Node]:
        return [node for node in self.all_nodes if kind(node) == "stickyNote"]

    @cached_property
    def nodes(self) -> list[Node]:
        """All but the sticky notes."""
        return [node for node in self.all_nodes if kind(node) != "stickyNote"]

    @cached_property
    def named(self) -> dict[str, Node]:
        return {node["name"]: node for node in self.nodes}

    def of(self, *kinds: str) -> list[Node]:
        return [node for node in self.nodes if kind(node) in kinds]

    @cached_property
    def triggers(self) -> list[Node]:
        return [node for node in self.nodes if is_trigger(node)]

    @cached_property
    def links(self) -> list[Link]:
        return [
            Link(source, output, target["node"], target["index"])
            for source, outputs in self.document["connections"].items()
            for output, targets in enumerate(outputs.get("main", []))
            for target in targets or []
        ]

    def outputs(self, name: str, output: int) -> list[str]:
        """The nodes that an output leads to."""
        return [link.target for link in self.links if link.source == name and link.output == output]

    def follow(self, *starts: str, stop: frozenset[str] = frozenset()) -> set[str]:
        """All nodes reachable from these, themselves included; what is behind one of `stop` is not."""
        seen: set[str] = set()
        waiting = list(starts)
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name not in stop:
                waiting += [link.target for link in self.links if link.source == name]
                if name in self.named and kind(self.named[name]) == "executeWorkflow":  # they hand over to themselves
                    waiting += [node["name"] for node in self.of("executeWorkflowTrigger")]
        return seen

    def run_from(self, trigger: str) -> set[str]:
        """As `follow`, past the questions which trigger it was."""
        seen: set[str] = set()
        waiting = [trigger]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            asked = asks_for_trigger(self.named[name]) if name in self.named else None
            taken = None if asked is None else int(asked != trigger)
            waiting += [link.target for link in self.links if link.source == name and taken in (None, link.output)]
        return seen

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The fields of the Settings node as they are written there."""
        node = self.named.get(SETTINGS)
        return {} if node is None else {row["name"]: row["value"] for row in assignments(node)}


def kind(node: Node) -> str:
    """The node's type without its package."""
    return str(node["type"]).rpartition(".")[2]


def is_trigger(node: Node) -> bool:
    return kind(node).endswith("Trigger") or kind(node) == "webhook"


def asks_for_trigger(node: Node) -> str | None:
    """The trigger that an IF asks about: was it the one?"""
    rows = node["parameters"].get("conditions", {}).get("conditions", []) if kind(node) == "if" else []
    found = (
        re.fullmatch(r"=\{\{ \$\('([^']+)'\)\.isExecuted \}\}", str(rows[0]["leftValue"])) if len(rows) == 1 else None
    )
    return found.group(1) if found and rows[0]["operator"]["operation"] == "true" else None


def assignments(node: Node) -> list[dict[str, Any]]:
    """The fields of a Set node."""
    return list(node["parameters"].get("assignments", {}).get("assignments", []))


def texts(value: Any) -> Iterator[str]:
    """Every text in a value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def expressions(node: Node) -> list[str]:
    """The parameters that n8n evaluates, as they are written."""
    return [text for text in texts(node["parameters"]) if text.startswith("=")]


def node_references(text: str) -> set[str]:
    """Names of the nodes that an expression speaks of."""
    quoted = r"(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|`([^`]*)`)"
    found = re.findall(rf"(?:\$\(\s*|\$items\(\s*|\$node\[\s*){quoted}", text)
    return {re.sub(r"\\(.)", r"\1", next(part for part in parts if part)) for parts in found if any(parts)}


def posts_to_flexdb(node: Node) -> bool:
    return kind(node) == "httpRequest" and "flexdbUrl" in str(node["parameters"].get("url", ""))


def tells_the_team(node: Node) -> bool:
    return kind(node) == "httpRequest" and "notifyUrl" in str(node["parameters"].get("url", ""))


def header(node: Node, name: str) -> str | None:
    """The value of a header that an HTTP node sends, as it is written."""
    rows = node["parameters"].get("headerParameters", {}).get("parameters", [])
    return next((str(row["value"]) for row in rows if row["name"].lower() == name.lower()), None)


def read_shipped() -> list[Workflow]:
    """Every workflow in the folder, by file name."""
    files = sorted(path for path in FOLDER.glob("*.json") if path.stem not in NOT_WORKFLOWS)
    documents = {path.stem: json.loads(path.read_text()) for path in files}
    ids = frozenset(document.get("id", "") for document in documents.values())
    return [Workflow(stem, document, ids) for stem, document in documents.items()]
