"""Sessions on a MongoDB server; the one door for its driver's errors."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from bson import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    InvalidName,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from engines.command import redact
from engines.errors import (
    AccessDenied,
    FlexError,
    InvalidTarget,
    TargetBusy,
    TargetMissing,
    TargetUnavailable,
    ToolFailed,
)
from engines.mongodb.address import Address
from engines.mongodb.batches import Find
from engines.run import StopToken

Document = dict[str, Any]
Client = MongoClient[Document]

DEFAULT_LIMITS = {
    "serverSelectionTimeoutMS": 10_000,
    "connectTimeoutMS": 10_000,
    "socketTimeoutMS": 120_000,
    "waitQueueTimeoutMS": 60_000,
}
"""Milliseconds; what the URL says comes first."""
LONG_SECONDS = 6 * 3600
"""For index builds, which answer when they are done; a stop ends them."""
CODEC: CodecOptions[Document] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)

DENIED = frozenset({11, 13, 18, 31, 8000})
BUSY = frozenset({24, 43, 46, 50, 112, 117, 175, 202, 237, 262, 11601})
GONE_AWAY = frozenset({6, 7, 89, 91, 133, 189, 9001, 10107, 11600, 11602, 13435, 13436})
NOT_FOUND = 26
SNAPSHOT_LOST = frozenset({239, 246})
"""SnapshotTooOld, SnapshotUnavailable. https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml"""


@dataclass(frozen=True, slots=True)
class Opened:
    """A client and one session of its own, in which everything of this attempt runs."""

    client: Client
    address: Address
    sessions: list[ClientSession]

    @property
    def database(self) -> Database[Document]:
        """Read from the primary, where what was just written is."""
        return user_database(self.client, self.address)

    def on(self, name: str) -> Database[Document]:
        """Read from where the URL says."""
        return self.client.get_database(name, codec_options=CODEC)

    def session(self) -> ClientSession:
        """One more session, for one thread; a stop kills what runs in it."""
        session = self.client.start_session(causal_consistency=False)
        self.sessions.append(session)
        return session


def user_database(client: Client, address: Address) -> Database[Document]:
    """The address's own database, read from the primary."""
    name, primary = address.user_database(), ReadPreference.PRIMARY
    return client.get_database(name, codec_options=CODEC, read_preference=primary)


def raw_batches(source: Collection[Document], query: Document | None = None) -> Iterator[bytes]:
    """Answers of a `find` as the server sent them, whole documents one after the other, never decoded."""
    return (documents for documents, _ in Find(source, query or {}).batches())


class Moment(ReadConcern):
    """Reads as of one cluster time, in any session: several threads then read the very same snapshot.

    https://www.mongodb.com/docs/manual/reference/read-concern-snapshot/#read-concern-and-atclustertime
    """

    def __init__(self, at: Timestamp) -> None:
        super().__init__("snapshot")
        self.at = at

    @property
    def document(self) -> dict[str, Any]:
        return {"level": "snapshot", "atClusterTime": self.at}


@contextmanager
def opened(
    address: Address, application_name: str, *, stop: StopToken | None = None, seconds: float | None = None
) -> Iterator[Opened]:
    """A client that is closed at the end; driver errors raised inside come out translated.

    A stop that is asked for meanwhile kills what the sessions run on the server. `seconds` replaces how long one
    answer may take.
    """
    if stop is not None:
        stop.check()
    limits = _limits(address)
    if seconds is not None:
        limits["socketTimeoutMS"] = int(seconds * 1000)
    try:
        with _client(address, application_name, limits) as client:
            found = Opened(client, address, [])
            with _killing(found, stop):
                yield found
    except (PyMongoError, BSONError) as error:
        if stop is not None:
            stop.check()
        raise translated(error, address) from error


def _limits(address: Address) -> dict[str, Any]:
    given = {str(name).lower() for name in address.options}
    return {name: value for name, value in DEFAULT_LIMITS.items() if name.lower() not in given}


def kept_client(address: Address, application_name: str) -> Client:
    """A client that the caller closes, and whose errors it translates."""
    return _new_client(address, application_name, _limits(address))


def _new_client(address: Address, application_name: str, limits: dict[str, Any]) -> Client:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the driver's words on options may repeat the URL
        return MongoClient(address.url, appname=application_name, **limits)


@contextmanager
def _client(address: Address, application_name: str, limits: dict[str, Any]) -> Iterator[Client]:
    with _new_client(address, application_name, limits) as client:
        yield client


@contextmanager
def _killing(found: Opened, stop: StopToken | None) -> Iterator[None]:
    if stop is None:
        yield
        return

    def kill() -> None:
        lsids = [session.session_id for session in list(found.sessions) if not session.has_ended]
        if lsids:
            with suppress(PyMongoError):  # it has limits of its own; the caller sees the stop at its next step
                found.client.admin.command("killSessions", lsids)

    def ask() -> None:  # must not block
        threading.Thread(target=kill, name="killing sessions", daemon=True).start()

    with stop.calling(ask):
        yield


def code_of(error: BaseException) -> int | None:
    if isinstance(error, BulkWriteError):
        details = error.details or {}
        first = (details.get("writeErrors") or details.get("writeConcernErrors") or [{}])[0]
        return int(first["code"]) if "code" in first else None
    return error.code if isinstance(error, OperationFailure) else None


def words_of(error: PyMongoError | BSONError, address: Address) -> str:
    """The server's own words, cut and without secrets."""
    text = str(error)
    if isinstance(error, BulkWriteError):
        written = (error.details or {}).get("writeErrors") or [{}]
        text = str(written[0].get("errmsg", text))
    elif isinstance(error, OperationFailure) and error.details:
        text = str(error.details.get("errmsg", text))
    return redact(text, address.secrets)[:300]


def translated(error: PyMongoError | BSONError, address: Address) -> FlexError:
    """The error callers see; the driver's own stays as its cause."""
    code = code_of(error)
    if code in DENIED:
        return AccessDenied(f"MongoDB at {address.shown} refused: {words_of(error, address)}")
    if code == NOT_FOUND:
        return TargetMissing(f"MongoDB at {address.shown}: {words_of(error, address)}")
    if code in BUSY or code in SNAPSHOT_LOST:
        return TargetBusy(f"MongoDB at {address.shown} gave up the work: {words_of(error, address)} (code {code}).")
    if code in GONE_AWAY or isinstance(error, (AutoReconnect, ConnectionFailure)):
        return TargetUnavailable(f"MongoDB at {address.shown} cannot be reached, or went away.")
    if isinstance(error, ConfigurationError) and address.srv:
        return TargetUnavailable(f"The DNS records of {address.shown} could not be read.")
    if isinstance(error, ConfigurationError):
        return InvalidTarget(
            "The options of the connection's URL do not go together, or name files that are not there."
        )
    if isinstance(error, InvalidName):
        return InvalidTarget(f"A name that MongoDB does not take: {words_of(error, address)}")
    if isinstance(error, DocumentTooLarge):
        return ToolFailed("A document is larger than this server takes.")
    tail = "" if code is None else f" (code {code})"
    return ToolFailed(f"MongoDB at {address.shown}: {words_of(error, address)}{tail}.")
