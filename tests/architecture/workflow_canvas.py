"""How a workflow looks on n8n's canvas: its nodes and notes by their coordinates."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from tests.architecture.workflow_document import OVERVIEW, Node, Workflow
from tests.architecture.workflow_rules import rule

GRID = 20
NODE = 100
LABEL = 40
"""Height of a node's name below it."""
TOP = 100
"""Of a frame: its heading and sentence."""
APART = 160
"""From one node to the next, one way or the other: node, label and air."""
LINE = 19
CHARACTERS, AT_WIDTH, PADDING = 60, 460, 30
"""Of notes, measured in pictures of n8n 2.41's canvas: lines of that many pixels, of that many characters."""
WORDS = (150, 320)
SECTIONS = ("Who is it for", "How it works", "How to set up", "Requirements", "How to customize")


@dataclass(frozen=True)
class Box:
    left: int
    top: int
    right: int
    bottom: int

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


def box(node: Node) -> Box:
    """A note as large as it says, a node with its label."""
    x, y = node["position"]
    width = node["parameters"].get("width", NODE) if node["type"].endswith("stickyNote") else NODE
    height = node["parameters"].get("height", NODE) if node["type"].endswith("stickyNote") else NODE + LABEL
    return Box(x, y, x + width, y + height)


def text_height(text: str, width: int) -> int:
    """Pixels that a note's text needs, roughly: headings are larger, paragraphs stand apart."""
    per_line = max(1, (width - PADDING) * CHARACTERS // (AT_WIDTH - PADDING))
    needed = 0.0
    for line in text.strip().splitlines():
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line).replace("**", "").replace("`", "")
        if not shown.strip():
            needed += 0.4
        elif found := re.match(r"(#{1,3}) ", shown):
            needed += math.ceil(len(shown) * 1.25 / per_line) * {1: 2.0, 2: 1.7, 3: 1.4}[len(found.group(1))]
        else:
            needed += math.ceil(len(shown) / per_line)
    return round(needed * LINE) + PADDING


def frames(workflow: Workflow) -> list[Node]:
    return [note for note in workflow.notes if note["name"] != OVERVIEW]


@rule
def nodes_stand_on_the_grid(workflow: Workflow) -> Iterator[str]:
    for node in workflow.all_nodes:
        if any(place % GRID for place in node["position"]):
            yield f"node {node['name']!r}: its position {node['position']} is not on the grid of {GRID}"


@rule
def nodes_do_not_lie_on_each_other(workflow: Workflow) -> Iterator[str]:
    for one, other in combinations(workflow.nodes, 2):
        across, down = (abs(a - b) for a, b in zip(one["position"], other["position"], strict=True))
        if across < APART and down < APART:
            yield f"nodes {one['name']!r} and {other['name']!r} are closer than {APART} px"


@rule
def notes_do_not_lie_on_each_other(workflow: Workflow) -> Iterator[str]:
    for one, other in combinations(workflow.notes, 2):
        if box(one).meets(box(other)):
            yield f"notes {one['name']!r} and {other['name']!r} overlap"


@rule
def the_overview_tells_everything_at_the_left(workflow: Workflow) -> Iterator[str]:
    found = [note for note in workflow.notes if note["name"] == OVERVIEW]
    if len(found) != 1:
        yield f"one sticky note named {OVERVIEW!r}"
        return
    note, text = found[0], found[0]["parameters"]["content"]
    if "color" in note["parameters"]:
        yield "the overview has the default colour, yellow"
    if any(box(note).right > node["position"][0] for node in workflow.nodes):
        yield "the overview stands left of all nodes"
    if box(note).right - box(note).left < AT_WIDTH:
        yield f"the overview is at least {AT_WIDTH} px wide"
    if not text.startswith("## "):
        yield "the overview begins with `## ` and a title"
    at = [text.find(f"### {section}") for section in SECTIONS]
    if -1 in at or at != sorted(at):
        yield f"the overview has the sections {', '.join(SECTIONS)}, in this order, each as `### …`"
    words = len(re.findall(r"\w[\w'/.-]*", text))
    if not WORDS[0] <= words <= WORDS[1]:
        yield f"the overview has {words} words; {WORDS[0]} to {WORDS[1]} are read"


@rule
def text_fits_its_note(workflow: Workflow) -> Iterator[str]:
    for note in workflow.notes:
        width, height = note["parameters"]["width"], note["parameters"]["height"]
        needed = text_height(note["parameters"]["content"], width)
        if needed > height:
            yield f"note {note['name']!r}: its text needs about {needed} px, it is {height} high"
        over = [node["position"][1] for node in workflow.nodes if box(note).meets(box(node))]
        room = min(over, default=note["position"][1] + height) - note["position"][1]
        if over and needed - PADDING // 2 > room:
            yield f"note {note['name']!r}: its text needs about {needed} px, the first node comes after {room}"


@rule
def frames_stand_around_nodes(workflow: Workflow) -> Iterator[str]:
    if not frames(workflow):
        return
    for note in frames(workflow):
        parameters = note["parameters"]
        if parameters.get("color") != 7 or not parameters["content"].startswith("## "):
            yield f"note {note['name']!r}: color 7, a heading `## …` and one sentence"
        if not any(box(note).holds(box(node)) for node in workflow.nodes):
            yield f"note {note['name']!r}: it encloses no node"
    for node in workflow.nodes:
        around = [note for note in frames(workflow) if box(note).meets(box(node))]
        if not around:
            yield f"node {node['name']!r}: it stands in no frame, the others do"
        for note in around:
            if not box(note).holds(box(node)):
                yield f"node {node['name']!r} stands half in the frame {note['name']!r}"
            elif node["position"][1] - note["position"][1] < TOP:
                yield f"node {node['name']!r} hides the text of {note['name']!r}: leave its top {TOP} px free"
