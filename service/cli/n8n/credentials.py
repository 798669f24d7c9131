"""The credentials that the shipped workflows name: what goes into each, and which n8n has already."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from service.cli.client import find_token, segment
from service.cli.exits import CommandError
from service.cli.n8n.api import N8n, N8nRefused
from service.home import Home
from service.settings import Settings

Key = tuple[str, str]
"""Type and name of a credential."""
FLEXDB_KEY: Key = ("httpHeaderAuth", "FlexDB API key")
FLEXDB_SECRET: Key = ("crypto", "FlexDB webhook secret")
FLEXDB_RABBITMQ: Key = ("rabbitmq", "FlexDB RabbitMQ")
INCOMING: Key = ("httpHeaderAuth", "n8n incoming webhooks")
FORMS: Key = ("httpBasicAuth", "n8n forms")
MADE_UP = (INCOMING, FORMS)
"""Theirs are keys of those who call n8n: nothing of FlexDB's settings, so never written anew."""
MADE_UP_FIELDS = frozenset({"incoming_key", "forms_password"})
PLACEHOLDERS = (None, "", "REPLACE_ME")
"""Ids that stand for none."""
KEYS_FILE = "n8n_keys.json"
UNLISTED = frozenset({403, 404, 405})
"""How an n8n answers that does not list credentials: it is older, or lists them to its owner only."""


class NotKnown(CommandError):
    """What belongs into a credential is not known on this machine."""


@dataclass
class Known:
    """The credentials n8n has, by type and name; `listed` is false where only those in use could be found."""

    ids: dict[Key, list[str]] = field(default_factory=dict)
    listed: bool = True

    def add(self, key: Key, credential_id: str) -> None:
        there = self.ids.setdefault(key, [])
        if credential_id not in there:
            there.append(credential_id)

    def has(self, key: Key) -> bool:
        return bool(self.ids.get(key))

    def id_of(self, key: Key) -> str | None:
        """The oldest of that name; None where there is none."""
        return self.ids[key][0] if self.has(key) else None


async def known_credentials(n8n: N8n, workflows: Iterable[Mapping[str, Any]]) -> Known:
    """Those that n8n lists; where it lists none to us, those that its workflows are linked with."""
    try:
        rows = await n8n.all("/credentials")
    except N8nRefused as error:
        if error.status not in UNLISTED:
            raise
    else:
        known = Known()
        for row in sorted(rows, key=lambda row: str(row.get("createdAt", ""))):
            known.add((row["type"], row["name"]), str(row["id"]))
        return known
    known = Known(listed=False)
    for workflow in workflows:
        for key, credential_id in linked(workflow):
            if credential_id not in PLACEHOLDERS:
                known.add(key, str(credential_id))
    return known


def linked(workflow: Mapping[str, Any]) -> list[tuple[Key, str | None]]:
    """Every credential its nodes name, with the id that it is linked with."""
    return [
        ((kind, str(credential.get("name"))), credential.get("id"))
        for node in workflow["nodes"]
        for kind, credential in (node.get("credentials") or {}).items()
    ]


def named(workflows: Iterable[Mapping[str, Any]]) -> list[Key]:
    """The credentials that workflows name, each once, in the order a user would make them."""
    found = {key for workflow in workflows for key, _ in linked(workflow)}
    known = [FLEXDB_KEY, FLEXDB_SECRET, FLEXDB_RABBITMQ, INCOMING, FORMS]
    return [key for key in known if key in found] + sorted(found - set(known))


async def create(n8n: N8n, key: Key, data: Mapping[str, Any]) -> str:
    """Its id."""
    kind, name = key
    made = await n8n.call("POST", "/credentials", {"name": name, "type": kind, "data": dict(data)})
    return str(made["id"])


async def replace(n8n: N8n, credential_id: str, key: Key, data: Mapping[str, Any]) -> None:
    """Put other data into it; its id, and with it every link, stays."""
    kind, name = key
    body = {"name": name, "type": kind, "data": dict(data)}
    try:
        await n8n.call("PATCH", f"/credentials/{segment(credential_id)}", body)
    except N8nRefused as error:
        if error.status not in {404, 405}:
            raise
        raise N8nRefused(
            error.status,
            f"This n8n cannot replace the credential {name} by its API.",
            "Correct it in n8n, or remove it there and install again.",
        ) from error


@dataclass(frozen=True, slots=True)
class Values:
    """What goes into each credential, from this machine's settings. Made-up keys are kept in `keys_file`."""

    settings: Settings
    keys_file: Path

    @classmethod
    def of(cls, settings: Settings, keys_file: Path | None) -> Values:
        return cls(settings, keys_file or settings.home / KEYS_FILE)

    def known(self, key: Key) -> None:
        """Raises what `data` would. Makes nothing."""
        if key in MADE_UP:
            self._read()
        else:
            self.data(key)

    def data(self, key: Key) -> dict[str, Any]:
        """Raises `NotKnown`. Keys for those who call n8n are made up now, unless the file has them."""
        if key == FLEXDB_KEY:
            return {"name": "X-API-Key", "value": self._token()}
        if key == FLEXDB_SECRET:
            return {"hmacSecret": self._secret()}
        if key == FLEXDB_RABBITMQ:
            return self._rabbitmq()
        if key == INCOMING:
            return {"name": "X-API-Key", "value": self._kept("incoming_key")}
        if key == FORMS:
            return {"user": "flexdb", "password": self._kept("forms_password")}
        raise NotKnown(f"Nothing is known about a credential {key[1]} of type {key[0]}.", "Make it in n8n.")

    def _token(self) -> str:
        token = find_token(self.settings)
        if token is None:
            raise NotKnown(
                "FlexDB's token is not known here.",
                "Set FLEXDB_TOKEN, or FLEXDB_HOME to the folder where the service keeps its token.",
            )
        return token

    def _secret(self) -> str:
        """The first: the one that what goes out is signed with."""
        given = self.settings.webhook_secret
        try:
            file = Home(self.settings.home).webhook_secret
            text = given.get_secret_value() if given else file.read_text(encoding="utf-8")
            return text.split()[0]
        except (OSError, UnicodeDecodeError, IndexError):
            raise NotKnown(
                "FlexDB's webhook secret is not known here.",
                "Set FLEXDB_WEBHOOK_SECRET, or FLEXDB_HOME to the folder where the service keeps it.",
            ) from None

    def _rabbitmq(self) -> dict[str, Any]:
        if self.settings.amqp_url is None:
            raise NotKnown("FLEXDB_AMQP_URL is not set.", "Set it, or make the credential in n8n.")
        try:
            parts = urlsplit(self.settings.amqp_url.get_secret_value())
            port = parts.port
        except ValueError:
            raise NotKnown("FLEXDB_AMQP_URL is not a URL.", "amqp://user:password@host:5672/vhost") from None
        encrypted = parts.scheme == "amqps"
        return {
            "hostname": parts.hostname or "127.0.0.1",
            "port": port or (5671 if encrypted else 5672),
            "username": unquote(parts.username or "guest"),
            "password": unquote(parts.password or "guest"),
            "vhost": unquote(parts.path.removeprefix("/")) or "/",
            "ssl": encrypted,
        }

    def _kept(self, name: str) -> str:
        kept = self._read()
        if name not in kept:
            kept = {**kept, name: secrets.token_urlsafe(32)}
            write_privately(self.keys_file, json.dumps(kept, indent=2) + "\n")
        return str(kept[name])

    def shared(self) -> bool:
        """Whether others on this machine may read the file of made-up keys."""
        try:
            return bool(self.keys_file.stat().st_mode & 0o077)
        except OSError:
            return False

    def _read(self) -> dict[str, Any]:
        """Empty when there is no such file. Raises `CommandError` for what is not such a file: it stays as it is."""
        try:
            found = json.loads(self.keys_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise CommandError(f"{self.keys_file} cannot be read.", "Name another file with --keys-file.") from error
        if not isinstance(found, dict):
            raise CommandError(f"{self.keys_file} is no file of keys.", "Name another file with --keys-file.")
        for name in MADE_UP_FIELDS & set(found):
            if not isinstance(found[name], str) or not found[name].strip():
                raise CommandError(f"{self.keys_file} holds no key in {name}.", "Put one there, or remove the field.")
        return found


def write_privately(path: Path, text: str) -> None:
    """Whole or not at all, readable by nobody else; a link stays and leads to it. Raises `CommandError`."""
    path = Path(os.path.realpath(path))
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written ({error.strerror}).", "Name another with --keys-file.") from error
