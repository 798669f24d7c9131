"""Proving an artefact to a level, for backups before they are published and for verifications later."""

from __future__ import annotations

from typing import Any

from engines.artefacts.manifest import Evidence
from engines.artefacts.reading import Artefact
from engines.assertions import Assertion
from engines.base import Target, VerificationEngine
from engines.registry import EngineRegistry
from engines.run import Run
from handlers.ports import Connections

HIGHEST_LEVEL = 3
EVIDENCE_SHOWN = 200
"""Events stay small; beyond this what is wrong comes first, and a count says how much there is."""


class Prover:
    """Proves artefacts to a level; used after a backup and by verification alike."""

    def __init__(self, connections: Connections, engines: EngineRegistry) -> None:
        self._connections = connections
        self._engines = engines

    def prove(
        self,
        artefact: Artefact,
        level: int,
        target: Target,
        run: Run,
        assertions: tuple[Assertion, ...] = (),
        asserted: str | None = None,
    ) -> tuple[Evidence, ...]:
        """Evidence for every level up to `level`; the level is reached when this returns.

        `assertions` are asked at level 3, where a backup holds several databases of the one `asserted`. Raises
        `ArtefactDamaged`, `ObjectMissing`, `VerificationImpossible` or `AssertionFailed`.
        """
        made_by_hand = "adopted" in artefact.manifest.options
        came = "dump read to its end" if made_by_hand else "tool exited with success, stream complete"
        evidence = [Evidence(level=0, check=came)]
        if level == 1:
            evidence += artefact.check(run)
        if level >= 2:  # reading the whole artefact checks its stored bytes on the way
            for part in parts(artefact):
                asked = assertions if asserted in (None, part.manifest.database) else ()
                evidence += self._read(part, level, target, run, asked)
        return tuple(evidence)

    def _read(
        self, artefact: Artefact, level: int, target: Target, run: Run, assertions: tuple[Assertion, ...]
    ) -> tuple[Evidence, ...]:
        engine = self._engines.for_target(target, VerificationEngine, "verification")
        evidence = engine.parse(artefact, run)
        if level >= HIGHEST_LEVEL:
            evidence += engine.rehearse(artefact, self._connections.scratch(target), run, assertions)
        return evidence


def parts(artefact: Artefact) -> list[Artefact]:
    """The databases of a backup of a whole server; the backup itself where it is of one."""
    return [artefact.of(name) for name in artefact.databases] or [artefact]


def shown_evidence(evidence: tuple[Evidence, ...]) -> tuple[dict[str, Any], ...]:
    """Evidence as JSON, cut to what an event can carry: whatever is wrong comes first."""
    ordered = sorted(evidence, key=lambda item: item.ok) if len(evidence) > EVIDENCE_SHOWN else evidence
    return tuple(item.model_dump(mode="json", exclude_none=True) for item in ordered[:EVIDENCE_SHOWN])
