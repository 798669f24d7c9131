"""What every engine sees before a backup or restore, and that it agrees with how those would end."""

from __future__ import annotations

import pytest

from engines.base import BackupOptions, Finding, PreflightEngine, RestoreOptions
from engines.errors import FlexError
from tests.contracts.engine_cases import ROWS, Bench, EngineCase


def looking(case: EngineCase) -> PreflightEngine:
    assert isinstance(case.engine, PreflightEngine)
    return case.engine


def problems(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.problem.code for finding in findings if finding.problem is not None]


def well_said(findings: tuple[Finding, ...]) -> bool:
    return all(finding.check and finding.detail and (finding.ok or finding.hint) for finding in findings)


def test_a_good_target_has_no_problem_before_a_backup(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    found = looking(case).preflight_backup(target, BackupOptions(), bench.run())
    assert problems(found) == []
    assert well_said(found)
    assert next(finding for finding in found if finding.check == "reachable").ok
    assert case.rows(target) == ROWS
    bench.back_up(case, target)


def test_a_missing_target_is_said_before_a_backup(case: EngineCase, bench: Bench) -> None:
    absent = case.absent()
    found = looking(case).preflight_backup(absent, BackupOptions(), bench.run())
    assert "target_missing" in problems(found)
    assert well_said(found)
    assert not case.exists(absent)


def test_a_pattern_that_means_nothing_is_said_before_a_backup(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    for options in (BackupOptions(include=("no_such_*",)), BackupOptions(exclude=("no_such_*",))):
        with pytest.raises(FlexError) as ended:
            bench.back_up(case, target, include=options.include, exclude=options.exclude)
        found = looking(case).preflight_backup(target, options, bench.run())
        assert ended.value.code in problems(found)


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_an_absent_and_an_empty_target_have_no_problem_before_a_restore(
    case: EngineCase, bench: Bench, mode: str
) -> None:
    artefact = bench.back_up(case, case.filled())
    absent, empty = case.absent(), case.empty()
    for target in (absent, empty):
        found = looking(case).preflight_restore(artefact, target, RestoreOptions(mode=mode), bench.run())
        assert problems(found) == []
        assert well_said(found)
    assert not case.exists(absent)
    assert case.leftovers(empty) == []
    assert case.rows(empty) == {}


def test_a_target_with_objects_is_a_problem_for_create_and_none_for_replace(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    artefact = bench.back_up(case, target)
    found = looking(case).preflight_restore(artefact, target, RestoreOptions(), bench.run())
    assert problems(found) == ["target_not_empty"]
    assert well_said(found)
    found = looking(case).preflight_restore(artefact, target, RestoreOptions(mode="replace"), bench.run())
    assert problems(found) == []
    assert case.rows(target) == ROWS
    assert case.leftovers(target) == []
