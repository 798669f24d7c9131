"""What was found before a backup or a restore begins: told by preflight, and an early end for the work itself."""

from __future__ import annotations

from collections.abc import Iterable

from engines.artefacts.reading import Artefact
from engines.base import BackupOptions, Finding, PreflightEngine, RestoreOptions, Target
from engines.registry import EngineRegistry
from engines.run import Run


def before_backup(engines: EngineRegistry, target: Target, options: BackupOptions, run: Run) -> tuple[Finding, ...]:
    """What the target's engine finds; nothing where it has no preflight."""
    engine = engines.by_kind(target.engine)
    return engine.preflight_backup(target, options, run) if isinstance(engine, PreflightEngine) else ()


def before_restore(
    engines: EngineRegistry, artefact: Artefact, target: Target, options: RestoreOptions, run: Run
) -> tuple[Finding, ...]:
    """What the target's engine finds; nothing where it has no preflight."""
    engine = engines.by_kind(target.engine)
    return engine.preflight_restore(artefact, target, options, run) if isinstance(engine, PreflightEngine) else ()


def refuse_early(engines: EngineRegistry, target: Target, options: BackupOptions, run: Run) -> None:
    """Raise what the backup would end with, before anything is written."""
    raise_first(before_backup(engines, target, options, run))


def raise_first(findings: Iterable[Finding]) -> None:
    """Raise the first problem among them."""
    for finding in findings:
        if finding.problem is not None:
            raise finding.problem
