"""What every handler has: an operation's name, its request and result models, its claims, its run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from engines.base import Target
from engines.run import Run
from handlers.ports import CatalogueEntry

ConnectionName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Name of a connection.")]


LabelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=32)]
"""What a backup is marked and found by."""


class Request(BaseModel):
    """Fields every operation takes. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # most services need few of them

    callback_url: str | None = Field(
        default=None, max_length=8192, description="Receives the terminal event, byte for byte this URL."
    )
    deadline_seconds: float | None = Field(
        default=None, gt=0, le=30 * 86400, description="Counted from acceptance, over all attempts."
    )
    max_attempts: int | None = Field(
        default=None, ge=1, le=100, description="Tries for errors that may pass; 3 unless configured."
    )
    on_conflict: Literal["queue", "join", "reject"] = Field(
        default="queue", description="What to do when an excluding job is open on the same target."
    )


class Result(BaseModel):
    """What a completed event carries, flat in its `data`."""

    model_config = ConfigDict(frozen=True, defer_build=True)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a job needs to itself (`exclusive`) or against excluders (`shared`) while it runs."""

    key: str
    mode: Literal["exclusive", "shared"]


@dataclass(frozen=True, slots=True)
class Published:
    """The catalogue gains a backup."""

    entry: CatalogueEntry


@dataclass(frozen=True, slots=True)
class Verified:
    """A backup reached a level, or was found damaged (level is then 0)."""

    backup_id: str
    level: int
    damaged: bool = False


CatalogueChange = Published | Verified


@dataclass(frozen=True, slots=True)
class Later:
    """Another operation that FlexDB itself asks for, to be carried out so many seconds after the job's end.

    Its event has source `/flexdb` and id `<job_id>/<operation>`.
    """

    operation: str
    connection: str | None
    data: dict[str, Any]
    claims: tuple[Claim, ...]
    seconds: float
    max_attempts: int


R = TypeVar("R", bound=Request)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a handler returns: the result, and what the ledger learns in the same transaction."""

    result: Result
    changes: tuple[CatalogueChange, ...] = ()
    later: tuple[Later, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a request: JSON pointer into `data` and a sentence."""

    pointer: str
    detail: str


class Handler(ABC, Generic[R]):
    """Understands one operation. Plain and synchronous; knows nothing of jobs, brokers or HTTP."""

    operation: ClassVar[str]
    request_model: ClassVar[type[Request]]
    result_model: ClassVar[type[Result]]
    writes: ClassVar[bool] = False
    """True when a signature alone does not admit it: it changes or removes something of the user's."""

    def faults(self, request: R) -> list[Fault]:
        """What validation by the model alone cannot see; no I/O. Empty when all is well."""
        return []

    def wants_token(self, request: R) -> str | None:
        """Why a signature alone does not admit this very request, though it admits the operation; None: it does."""
        return None

    def connection(self, request: R) -> str | None:
        """The connection the job is about, None for a job without one."""
        name: Any = getattr(request, "connection", None)
        return name if isinstance(name, str) else None

    def claims(self, request: R) -> tuple[Claim, ...]:
        """What the job must hold while it runs; called at acceptance."""
        return ()

    @abstractmethod
    def run(self, request: R, run: Run) -> Outcome:
        """Do it. Raises from `engines.errors`. A second run of the same job is safe."""


def backup_key(backup_id: str) -> str:
    """The claim key of a stored backup."""
    return f"backup:{backup_id}"


def target_claim(target: Target) -> Claim:
    """The database itself, exclusively."""
    return Claim(f"target:{target.key}", "exclusive")
