"""Verification: proving that a stored backup is whole, up to restoring it into a scratch database."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from engines.artefacts.reading import Artefact
from engines.base import Target
from engines.errors import (
    ArtefactDamaged,
    AssertionFailed,
    FlexError,
    ObjectMissing,
    UnsupportedOperation,
    VerificationImpossible,
)
from engines.registry import EngineRegistry
from engines.run import Run
from handlers.asserting import AssertionRequest
from handlers.base import Claim, ConnectionName, Handler, Labels, Outcome, Request, Result, Verified, backup_key
from handlers.choosing import Choice, Whole, choose
from handlers.ports import Catalogue, CatalogueEntry, Connections, Stores
from handlers.proof import HIGHEST_LEVEL, Prover, shown_evidence


class BackupFilter(BaseModel):
    """Which backups: newest first, all of it must match."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connection: ConnectionName | None = None
    labels: Labels = Field(default_factory=dict)
    min_level: int = Field(default=0, ge=0, le=HIGHEST_LEVEL)
    whole: Whole = None
    limit: int = Field(default=1, ge=1, le=100, description="How many, newest first.")


class VerificationRequest(Request):
    backup_id: str | None = Field(default=None, min_length=1, max_length=200)
    filter: BackupFilter | None = Field(default=None, description="Instead of `backup_id`.")
    level: int = Field(default=2, ge=0, le=HIGHEST_LEVEL)
    assertions: tuple[AssertionRequest, ...] = Field(
        default=(), max_length=100, description="Questions to the restored scratch database; they want level 3."
    )
    database: str | None = Field(
        default=None, min_length=1, max_length=255, description="Of a backup of a whole server: the one asked."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> VerificationRequest:
        if (self.backup_id is None) == (self.filter is None):
            raise ValueError("give either backup_id or filter")
        if self.assertions and self.level < HIGHEST_LEVEL:
            raise ValueError("assertions are asked of a restored database: they want level 3")
        return self


class VerifiedBackup(Result):
    backup_id: str
    connection: str
    level: int
    evidence: tuple[dict[str, Any], ...]
    evidence_total: int


class VerificationResult(Result):
    backup_id: str
    """The first (newest) backup verified."""
    level: int
    evidence: tuple[dict[str, Any], ...]
    evidence_total: int
    backups: tuple[VerifiedBackup, ...]
    notes: tuple[str, ...]
    """Of how they were chosen."""


class VerificationHandler(Handler[VerificationRequest]):
    operation = "verification"
    request_model = VerificationRequest
    result_model = VerificationResult

    def __init__(self, connections: Connections, stores: Stores, catalogue: Catalogue, engines: EngineRegistry) -> None:
        self._connections = connections
        self._stores = stores
        self._catalogue = catalogue
        self._engines = engines
        self._prover = Prover(connections, engines)

    def connection(self, request: VerificationRequest) -> str | None:
        return request.filter.connection if request.filter else None

    def wants_token(self, request: VerificationRequest) -> str | None:
        return "Assertions are SQL of the caller's own; send them with a token." if request.assertions else None

    def claims(self, request: VerificationRequest) -> tuple[Claim, ...]:
        return (Claim(backup_key(request.backup_id), "shared"),) if request.backup_id else ()

    def run(self, request: VerificationRequest, run: Run) -> Outcome:
        choice = self._choose(request, run)
        proven = [self._prove(entry, request, run) for entry in choice.entries]
        first = proven[0]
        return Outcome(
            VerificationResult(
                backup_id=first.backup_id,
                level=first.level,
                evidence=first.evidence,
                evidence_total=first.evidence_total,
                backups=tuple(proven),
                notes=choice.notes,
            ),
            tuple(Verified(backup.backup_id, backup.level) for backup in proven),
        )

    def _choose(self, request: VerificationRequest, run: Run) -> Choice:
        if request.backup_id:
            return Choice([self._catalogue.backup(request.backup_id)])
        assert request.filter is not None  # noqa: S101  the model allows exactly one of both
        choice = choose(self._catalogue, request.filter, request.filter.limit)
        for entry in choice.entries:
            self._catalogue.hold(entry.manifest.backup_id, run.job_id, run.token)
        return choice

    def _prove(self, entry: CatalogueEntry, request: VerificationRequest, run: Run) -> VerifiedBackup:
        backup_id, level = entry.manifest.backup_id, request.level
        artefact = Artefact(self._stores.store(entry.store), entry.folder, entry.manifest)
        asked = tuple(each.assertion() for each in request.assertions)
        of = asked_database(artefact, request.database, bool(asked))
        try:
            evidence = self._prover.prove(artefact, level, self._scratch_host(entry, level), run, asked, of)
        except (ArtefactDamaged, ObjectMissing, AssertionFailed) as error:
            error.details.setdefault("backup_id", backup_id)
            error.details.setdefault("evidence", [])
            raise
        return VerifiedBackup(
            backup_id=backup_id,
            connection=entry.manifest.connection,
            level=level,
            evidence=shown_evidence(evidence),
            evidence_total=len(evidence),
        )

    def _scratch_host(self, entry: CatalogueEntry, level: int) -> Target:
        """The target whose server a rehearsal uses; below level 3 only its engine matters."""
        manifest = entry.manifest
        try:
            return self._connections.target(manifest.connection)
        except FlexError as error:
            if level < HIGHEST_LEVEL:
                return Target(manifest.connection, manifest.engine, SecretStr(""), "", None, manifest.database)
            raise VerificationImpossible(
                f"Level 3 restores into a scratch database, but the connection {manifest.connection!r} "
                "that the backup was made of is no longer configured."
            ) from error


def asked_database(artefact: Artefact, database: str | None, asked: bool) -> str | None:
    """The database that assertions are asked of; raises `UnsupportedOperation` when that is not clear."""
    held = artefact.databases
    if not held:
        return None
    if database is not None:
        return artefact.of(database).manifest.database
    if asked:
        raise UnsupportedOperation(
            "The backup is of a whole server; assertions are asked of one database.",
            hint=f"Say which with `database`: {', '.join(held)}.",
        )
    return None
