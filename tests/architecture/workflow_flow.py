"""Workflows without n8n: what each node gets and gives is worked out with data that FlexDB's own models make.

Every branch is gone through with everything that may come there; conditions are evaluated for what they read, not for
where they lead. So it tells which fields there can be, and what is asked for, not which way a run takes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import quickjs  # type: ignore[import-untyped]  # it ships no types

from tests.architecture.flexdb_answers import USUAL
from tests.architecture.workflow_calls import Call
from tests.architecture.workflow_document import BY_HAND, Node, Workflow, expressions, kind, node_references
from tests.architecture.workflow_items import MOST, Item, Outputs, distinct, with_error
from tests.architecture.workflow_nodes import GIVES, passes

SWEEPS = 8
"""Loops go round this often."""


@dataclass
class Seen:
    """What became of one expression of a node."""

    outcomes: list[dict[str, Any]]
    hits: set[str]
    misses: set[str]


class JavaScript:
    """n8n's side of expressions, in a JavaScript engine of its own."""

    def __init__(self) -> None:
        self._context = quickjs.Context()
        self._context.set_time_limit(20)
        self._context.eval(Path(__file__).with_name("n8n_expressions.js").read_text())
        self._context.get("forget")(json.dumps({key: value for key, value in USUAL.items() if isinstance(value, str)}))

    def remember(self, node: str, items: list[Item], main: int) -> None:
        """`main` of them are what the first output gives."""
        self._context.get("remember")(node, json.dumps(items), main)

    def evaluate(
        self, found: list[str], references: list[str], items: list[Item], workflow: Workflow
    ) -> dict[str, Seen]:
        asked = {
            "expressions": found,
            "references": references,
            "input": items,
            "workflow": {"id": workflow.document["id"], "name": workflow.document["name"], "active": True},
            "most": MOST,
        }
        answer = json.loads(self._context.get("evaluate")(json.dumps(asked)))
        return {text: Seen(seen["outcomes"], set(seen["hits"]), set(seen["misses"])) for text, seen in answer.items()}


@dataclass(repr=False)
class Flow:
    """One workflow gone through; `calls` and `seen` are of the last sweep."""

    workflow: Workflow
    outputs: dict[str, Outputs] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    seen: dict[tuple[str, str], Seen] = field(default_factory=dict)
    asked: dict[str, set[str]] = field(default_factory=dict)
    """By the suffix of the callback: operations that were asked for."""

    def __post_init__(self) -> None:
        self._script = JavaScript()
        self._version: dict[str, int] = {}
        self._everything_asked: set[str] = set()
        self._known: dict[str, tuple[str, list[Call], dict[tuple[str, str], Seen]]] = {}
        order = self._order()
        for _ in range(SWEEPS):
            before = dict(self._version)
            self.calls, self.seen = [], {}
            for name in order:
                self._visit(self.workflow.named[name])
            if before == self._version:
                break

    @property
    def operations(self) -> set[str]:
        """What is asked for anywhere in the workflow, as far as it is known."""
        self._everything_asked |= {call.operation for call in self.calls if call.operation}
        return self._everything_asked

    def _order(self) -> list[str]:
        """From the triggers on, the one run by hand first."""
        triggers = sorted((node["name"] for node in self.workflow.triggers), key=lambda name: name != BY_HAND)
        order, waiting = [], list(triggers)
        while waiting:
            name = waiting.pop(0)
            if name in order:
                continue
            order.append(name)
            waiting += [link.target for link in self.workflow.links if link.source == name]
        return order

    def input_of(self, name: str, port: int | None = None) -> list[Item]:
        found = [
            item
            for link in self.workflow.links
            if link.target == name and port in (None, link.target_input)
            for item in self.outputs.get(link.source, {}).get(link.output, [])
        ]
        return distinct(found)

    def _visit(self, node: Node) -> None:
        name = node["name"]
        items = self.input_of(name)
        if not items and node not in self.workflow.triggers:
            return
        found = expressions(node)
        references = sorted({one for text in found for one in node_references(text)})
        depends = json.dumps([items, [self._version.get(one) for one in references], self._asked_so_far()])
        if name in self._known and self._known[name][0] == depends and node not in self.workflow.triggers:
            _, calls, seen = self._known[name]
            self.calls += calls
            self.seen |= seen
            return
        mine = {(name, text): one for text, one in self._evaluated(found, references, items).items()}
        self.seen |= mine
        before = len(self.calls)
        give = GIVES.get(kind(node), passes)
        made = {output: distinct(given) for output, given in give(self, node, items).items()}
        if node.get("onError") == "continueErrorOutput" and kind(node) in GIVES:
            made.setdefault(max(made, default=0) + 1, distinct([with_error(item) for item in items]))
        if made != self.outputs.get(name):
            self._version[name] = self._version.get(name, 0) + 1
        self.outputs[name] = made
        given = distinct([item for output in sorted(made) for item in made[output]])
        self._script.remember(name, given, len(made.get(0, ())))
        self._known[name] = depends, self.calls[before:], mine

    def _evaluated(self, found: list[str], references: list[str], items: list[Item]) -> dict[str, Seen]:
        return self._script.evaluate(found, references, items, self.workflow) if found else {}

    def _asked_so_far(self) -> list[Any]:
        """What answers and callbacks depend on beside a node's own input."""
        return [{suffix: sorted(asked) for suffix, asked in self.asked.items()}, sorted(self._everything_asked)]

    # ------------------------------------------------------------ what a node's parameters come to

    def rounds(self, node: Node) -> int:
        return max((len(self.seen[node["name"], text].outcomes) for text in expressions(node)), default=1)

    def value(self, node: Node, value: Any, number: int) -> Any:
        """A parameter in one round; an expression that fails there is None."""
        if not (isinstance(value, str) and value.startswith("=")):
            return value
        outcomes = self.seen[node["name"], value].outcomes
        return outcomes[number % len(outcomes)].get("value")

    def error(self, node: Node, value: Any, number: int) -> str:
        if not (isinstance(value, str) and value.startswith("=")):
            return ""
        outcomes = self.seen[node["name"], value].outcomes
        return str(outcomes[number % len(outcomes)].get("error", ""))
