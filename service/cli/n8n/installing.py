"""Brings credentials and workflows into an n8n, so that a second run finds nothing to do."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service import __version__
from service.cli.client import segment
from service.cli.exits import CommandError
from service.cli.n8n import credentials
from service.cli.n8n.api import N8n, N8nRefused
from service.cli.n8n.comparing import State, find_installed, has_draft, is_live, state_of, triggers
from service.cli.n8n.credentials import FLEXDB_RABBITMQ, MADE_UP, Key, Known, NotKnown, Values
from service.cli.n8n.merging import Place, merged, retouched, same
from service.cli.n8n.workflows import Workflow, placeholders

NEW = "(new)"
"""Stands for an id that a dry run does not get."""
OLD = "These workflows want n8n 2.8 or newer."
DRAFT = (
    "it has an unpublished draft, which n8n would publish with any change: publish or discard that in n8n and install "
    "again, or --overwrite --publish publishes the shipped one with the draft's Settings"
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Values for the Settings nodes that the user named; they go into installed workflows, too."""
    first_settings: Mapping[str, Any] = field(default_factory=dict)
    """Values for workflows that are new there."""
    only: tuple[str, ...] = ()
    publish: bool = False
    overwrite: bool = False
    replace_credentials: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What was done, or in a dry run would be, about one credential or workflow."""

    kind: str
    name: str
    action: str
    id: str = ""
    published: bool | None = None
    note: str = ""
    failed: bool = False


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two installs at once would make everything twice. Raises `CommandError` while another has this folder.

    Where there is no such folder yet, or its file system knows no locks, nothing is kept apart.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError("Another flexdb n8n install runs.", "Wait until it has ended.") from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


def choose(shipped: Mapping[str, Workflow], only: tuple[str, ...]) -> dict[str, Workflow]:
    """Those of these file names, ids or names; all where none is named. What tells of errors comes first."""
    unknown = [word for word in only if not any(_is(word, file, found) for file, found in shipped.items())]
    if unknown:
        raise CommandError(f"There is no workflow {', '.join(unknown)}.", f"There are: {', '.join(shipped)}.")
    chosen = {
        file: found for file, found in shipped.items() if not only or any(_is(word, file, found) for word in only)
    }
    awaited = {found["settings"].get("errorWorkflow") for found in shipped.values()}
    return dict(sorted(chosen.items(), key=lambda item: item[1]["id"] not in awaited))


def _is(word: str, file: str, workflow: Workflow) -> bool:
    return word.removesuffix(".json") == file or word in (workflow["id"], workflow["name"])


class Installer:
    """One run. Raises `CommandError`; what was done by then stays, and the next run goes on from there."""

    def __init__(self, n8n: N8n, shipped: Mapping[str, Workflow], wishes: Wishes, values: Values) -> None:
        self._n8n = n8n
        self._shipped = shipped
        self._wishes = wishes
        self._values = values
        self._there: list[dict[str, Any]] = []
        self._known = Known()
        self._installed: dict[str, str] = {}
        self._tags: dict[str, str] | None = None

    async def run(self) -> list[Step]:
        await self._n8n.greet()
        chosen = choose(self._shipped, self._wishes.only)
        self._there = await self._n8n.all("/workflows")
        self._known = await credentials.known_credentials(self._n8n, self._there)
        for workflow in self._shipped.values():
            if found := find_installed(workflow, self._there):
                self._installed[workflow["id"]] = str(found[0]["id"])
        wanted = credentials.named(chosen.values())
        self._look_ahead(wanted)
        steps = [await self._credential(key) for key in wanted]
        return steps + [await self._workflow(file, workflow) for file, workflow in chosen.items()]

    # -- credentials

    def _look_ahead(self, wanted: list[Key]) -> None:
        """Raises what would keep a credential from being made, before anything is."""
        for key in wanted:
            if key != FLEXDB_RABBITMQ and (not self._known.has(key) or self._wishes.replace_credentials):
                self._values.known(key)

    async def _credential(self, key: Key) -> Step:
        there = self._known.id_of(key)
        if there is not None and (not self._wishes.replace_credentials or key in MADE_UP):
            several = len(self._known.ids[key])
            note = f"{several} of this name; the oldest is used for new links" if several > 1 else ""
            return Step("credential", key[1], "unchanged", there, note=note)
        try:
            self._values.known(key)
        except NotKnown as error:
            return Step("credential", key[1], "not made", there or "", note=f"{error.message} {error.hint}")
        if self._wishes.dry_run:
            self._known.add(key, there or NEW)
        elif there is not None:
            await credentials.replace(self._n8n, there, key, self._values.data(key))
        else:
            self._known.add(key, await credentials.create(self._n8n, key, self._values.data(key)))
        made = self._known.id_of(key) or ""
        note = f"its key is in {self._values.keys_file}" if key in MADE_UP else ""
        if note and self._values.shared():
            note += ", which others on this machine may read: chmod 600"
        return Step("credential", key[1], "replaced" if there is not None else "created", made, note=note)

    # -- workflows

    @property
    def _place(self) -> Place:
        ids = {str(each["id"]) for each in self._there if not each.get("isArchived")} | set(self._installed.values())
        return Place(self._known, ids, self._installed, __version__)

    async def _workflow(self, file: str, shipped: Workflow) -> Step:
        found = find_installed(shipped, self._there)
        if len(found) > 1:
            ids = ", ".join(str(each["id"]) for each in found)
            note = f"n8n has it {len(found)} times ({ids}): remove those you do not want"
            return Step("workflow", file, "not touched", note=note, failed=True)
        try:
            return await self._bring(file, shipped, found[0] if found else None)
        except N8nRefused as error:
            if error.status in {401, 403}:
                raise
            return Step("workflow", file, "refused", note=f"{error.message} {error.hint or OLD}", failed=True)

    async def _bring(self, file: str, shipped: Workflow, installed: dict[str, Any] | None) -> Step:
        action, ready = self._decide(file, shipped, installed)
        if installed is not None and not same(ready, installed) and self._spares_draft(installed):
            return Step("workflow", file, "not touched", str(installed["id"]), True, DRAFT, failed=True)
        note = ""
        if installed is not None and action == "kept":
            mended = "" if same(ready, installed) else "; its links and settings were mended"
            note = f"{state_of(installed, shipped)}: --overwrite puts the shipped one in its place{mended}"
        workflow = await self._write(ready, installed)
        self._installed[shipped["id"]] = str(workflow["id"])
        if not self._wishes.dry_run:
            note += await self._tag(workflow, shipped)
        published, why = await self._publish(workflow, ready)
        return Step(
            "workflow",
            file,
            action,
            str(workflow["id"]),
            published,
            "; ".join(part for part in (note, why) if part),
            failed=bool(why) and self._wishes.publish,
        )

    def _decide(self, file: str, shipped: Workflow, installed: dict[str, Any] | None) -> tuple[str, Workflow]:
        if installed is None:
            given = {**self._wishes.first_settings, **self._wishes.settings}
            return "created", merged(file, shipped, None, self._place, given)
        state = state_of(installed, shipped)
        if state in (State.CHANGED, State.UNKNOWN) and not self._wishes.overwrite:
            return "kept", retouched(installed, shipped, self._place, self._wishes.settings)
        ready = merged(file, shipped, installed, self._place, self._wishes.settings)
        return ("unchanged" if same(ready, installed) else "updated"), ready

    async def _write(self, ready: Workflow, installed: dict[str, Any] | None) -> dict[str, Any]:
        """The workflow as n8n has it afterwards."""
        if installed is not None and same(ready, installed):
            return installed
        if self._wishes.dry_run:
            return {**(installed or {"id": NEW, "active": False}), **ready}
        if installed is None:
            made: dict[str, Any] = await self._n8n.call("POST", "/workflows", ready)
            return made
        path = f"/workflows/{segment(str(installed['id']))}"
        changed: dict[str, Any] = await self._n8n.call("PUT", path, ready)
        if installed.get("active") and not is_live(changed):
            changed = await self._n8n.call("POST", f"{path}/activate")
        return changed

    async def _tag(self, workflow: Mapping[str, Any], shipped: Workflow) -> str:
        """Adds the tags that it lacks; why that did not work, which harms nothing else."""
        there = workflow.get("tags") or []
        lacking = [
            tag["name"] for tag in shipped.get("tags", ()) if tag["name"] not in {each["name"] for each in there}
        ]
        if not lacking:
            return ""
        try:
            ids = [each["id"] for each in there] + [await self._tag_id(name) for name in lacking]
            path = f"/workflows/{segment(str(workflow['id']))}/tags"
            await self._n8n.call("PUT", path, [{"id": tag} for tag in ids])
        except N8nRefused as error:
            return f"without tags ({error.said or error.message})"
        return ""

    async def _tag_id(self, name: str) -> str:
        if self._tags is None:
            self._tags = {tag["name"]: str(tag["id"]) for tag in await self._n8n.all("/tags")}
        if name not in self._tags:
            self._tags[name] = str((await self._n8n.call("POST", "/tags", {"name": name}))["id"])
        return self._tags[name]

    def _spares_draft(self, workflow: Mapping[str, Any]) -> bool:
        """What the user saved but did not publish is not ours to publish, or to lose."""
        return has_draft(workflow) and not self._wishes.overwrite

    async def _publish(self, workflow: Mapping[str, Any], ready: Workflow) -> tuple[bool, str]:
        """Whether it is published now, and why what was saved last is not."""
        live = bool(workflow.get("active"))
        if is_live(workflow) or not self._wishes.publish or not triggers(ready) or self._spares_draft(workflow):
            draft = has_draft(workflow) and not (self._wishes.dry_run and self._wishes.overwrite)
            how = ": publish it in n8n, or by --overwrite --publish"
            return live, f"what was saved last is not what is published{how}" if draft else ""
        if why := self._hold_back(ready):
            return live, f"not published: {why}"
        if self._wishes.dry_run:
            return True, ""
        try:
            await self._n8n.call("POST", f"/workflows/{segment(str(workflow['id']))}/activate")
        except N8nRefused as error:
            if error.status in {401, 403}:
                raise
            return live, f"not published: {error.said or error.message}"
        return True, ""

    def _hold_back(self, ready: Workflow) -> str:
        missing = [key[1] for key in credentials.named([ready]) if not self._known.has(key)]
        if missing:
            return f"there is no credential {', '.join(missing)}"
        if open_fields := placeholders(ready):
            return f"set {', '.join(open_fields)} in its Settings first"
        return ""


def summed_up(steps: list[Step]) -> str:
    """`2 created, 12 unchanged`."""
    count = Counter(step.action for step in steps)
    return ", ".join(f"{number} {action}" for action, number in count.items())
