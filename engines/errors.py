"""Every way an engine can fail, as classes that say who should act.

The class tells the program (`retryable`), the `code` tells the caller, the cause (`raise … from error`)
tells us. Messages never hold a secret: foreign texts pass through `engines.command.redact` or are left out.

    FlexError
    ├── TargetUnavailable      the server or file cannot be reached now          retryable
    ├── TargetBusy             somebody else holds what we need                  retryable
    ├── AccessDenied           wrong password, missing privilege
    ├── TargetMissing          the database named does not exist
    ├── TargetNotEmpty         a restore would have overwritten user objects
    ├── TargetProtected        FlexDB's own files are never written to
    ├── UnsupportedOperation   the engine lacks the capability or option
    ├── InvalidTarget          the connection's URL or `into` makes no sense
    ├── NoFittingClient        no installed client program fits the server
    ├── ToolFailed             a client program ended badly
    ├── StorageFailed          the store refused                                 retryable
    │   ├── StorageFull        no space left                                     retryable
    │   └── ObjectMissing      an object that should be there is not
    ├── ArtefactDamaged        stored bytes are not what was written
    ├── VerificationImpossible the level asked for cannot be reached
    ├── AssertionFailed        the backup restores, but something the user asserted is not so
    ├── InvalidAssertion       the database does not understand an assertion's question
    ├── InvalidDump            a dump made by hand that no engine can take in
    ├── UnknownBackup          the catalogue has no such backup
    ├── UnknownConnection      no connection of that name
    ├── UnknownCollection      no collection of that name
    ├── CollectionMismatch     the table is not what the collection says it is
    ├── RecordExists           a record of that key is there already
    ├── RecordRefused          the database does not take a record
    ├── TooManyRejected        more records of a source were rejected than allowed
    ├── SourceFailed           a source answers what is of no use
    │   └── SourceUnavailable  a source cannot be reached, or asks for patience     retryable
    ├── CalculationRefused     an operation that cannot be calculated, with the reason as `reason`
    └── Stopped                the work was asked to stop (cancel, deadline, shutdown, lost lease)
"""

from __future__ import annotations

from typing import Any, ClassVar


class FlexError(Exception):
    """A failure a caller can act on.

    `message` says what happened, `hint` what to do, `details` are extra fields for the failed event
    (JSON values, never secrets).
    """

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = "Look at the service's log for this job."

    def __init__(self, message: str, *, hint: str | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.details = details or {}


class TargetUnavailable(FlexError):
    code = "target_unavailable"
    retryable = True
    default_hint = "Check that the database server runs and can be reached from here."


class TargetBusy(FlexError):
    code = "target_busy"
    retryable = True
    default_hint = "Wait until the other work on this target has ended, or end it."


class AccessDenied(FlexError):
    code = "access_denied"
    default_hint = "Check user, password and privileges of the connection."


class TargetMissing(FlexError):
    code = "target_missing"
    default_hint = "Check the database name of the connection."


class TargetNotEmpty(FlexError):
    code = "target_not_empty"
    default_hint = "Restore into another database with `into`, or use mode `replace`."


class TargetProtected(FlexError):
    code = "target_protected"
    default_hint = "Files of FlexDB itself may be backed up, never written to; choose another target."


class UnsupportedOperation(FlexError):
    code = "unsupported_operation"
    default_hint = "Leave the option out, or use a connection whose engine has it."


class InvalidTarget(FlexError):
    code = "invalid_target"
    default_hint = "Correct the connection's URL or the name of the target database."


class NoFittingClient(FlexError):
    code = "no_fitting_client"
    default_hint = "Install client programs of the server's major version."


class ToolFailed(FlexError):
    code = "tool_failed"
    default_hint = "Read the tool's own words in the message; nothing of this attempt was kept."


class StorageFailed(FlexError):
    code = "storage_failed"
    retryable = True
    default_hint = "Check the storage: reachable, writable, credentials."


class StorageFull(StorageFailed):
    code = "storage_full"
    default_hint = "Free space in the storage or the work folder; nothing of this attempt was kept."


class ObjectMissing(StorageFailed):
    code = "artefact_missing"
    retryable = False
    default_hint = "The stored file is gone; restore from another backup."


class ArtefactDamaged(FlexError):
    """Stored bytes are not what was written. `details["evidence"]` says what was seen."""

    code = "artefact_damaged"
    default_hint = "Do not rely on this backup; take a new one and look for the cause in the storage."


class VerificationImpossible(FlexError):
    code = "verification_impossible"
    default_hint = "Ask for a lower level, or make what the message names possible."


class AssertionFailed(FlexError):
    """`details["evidence"]` says what was asked, expected and found."""

    code = "assertion_failed"
    default_hint = "The backup itself is whole: look whether the data or the assertion is wrong."


class InvalidAssertion(FlexError):
    code = "invalid_assertion"
    default_hint = "Correct the assertion; it is one read-only query that gives one value."


class InvalidDump(FlexError):
    code = "invalid_dump"
    default_hint = "Take in what pg_dump, mongodump, mysqldump, mariadb-dump or sqlite3 wrote, whole and as it was."


class UnknownBackup(FlexError):
    code = "unknown_backup"
    default_hint = "List what there is with GET /backups."


class UnknownConnection(FlexError):
    code = "unknown_connection"
    default_hint = "Set FLEXDB_CONNECTIONS__NAME=URL and restart, or correct the name."


class UnknownCollection(FlexError):
    code = "unknown_collection"
    default_hint = "GET /collections lists them; PUT /collections/NAME declares one."


class CollectionMismatch(FlexError):
    code = "collection_mismatch"
    default_hint = "Correct the collection, or the table: FlexDB adds columns and changes nothing else."


class RecordExists(FlexError):
    code = "record_exists"
    default_hint = "Use another key, or replace the record with PUT."


class RecordRefused(FlexError):
    code = "record_refused"
    default_hint = "Correct the record, or the constraint of the table that it offends."


class TooManyRejected(FlexError):
    code = "too_many_rejected"
    default_hint = "Look at the rejected records with GET /jobs/JOB/rejected; mend the source, or raise `max_rejected`."


class SourceFailed(FlexError):
    code = "source_failed"
    default_hint = "Look at what the source answers, and correct its URL, its paginator or its records path."


class SourceUnavailable(SourceFailed):
    code = "source_unavailable"
    retryable = True
    default_hint = "Check that the source runs and can be reached from here."


class CalculationRefused(FlexError):
    """`reason` tells programs which rule of arithmetic, or which limit, it was."""

    code = "calculation_refused"
    default_hint = "Correct the operation or its arguments."

    def __init__(self, reason: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, details={"reason": reason})
        self.reason = reason


class Stopped(FlexError):
    """Raised where work notices its stop token. `reason` is one of `engines.run.StopReason`."""

    code = "stopped"
    default_hint = "The work was asked to stop."

    def __init__(self, reason: str) -> None:
        super().__init__(f"stopped: {reason}")
        self.reason = reason
