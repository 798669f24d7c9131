"""A running n8n and a running FlexDB that know each other, and somebody who is told what the workflows have to say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from service.cli.n8n.workflows import read_workflows, shipped_folder, with_settings
from tests.acceptance.service_process import TOKEN, WEBHOOK_SECRET, RunningService, until
from tests.acceptance.webhook_receiver import Receiver
from tests.n8n.process import Execution, RunningN8n

INCOMING_KEY = "key-of-those-who-call-n8n"
FORM_USER, FORM_PASSWORD = "forms", "password-of-the-forms"
SHIPPED = read_workflows(shipped_folder())
"""Every shipped workflow, by its file's name without ending."""


def make_credentials(n8n: RunningN8n, rabbitmq_url: str | None = None) -> None:
    """Those that the shipped workflows name, with what the tests' FlexDB takes."""
    n8n.create_credentials("httpHeaderAuth", "FlexDB API key", {"name": "X-API-Key", "value": TOKEN})
    n8n.create_credentials("crypto", "FlexDB webhook secret", {"hmacSecret": WEBHOOK_SECRET})
    n8n.create_credentials("httpHeaderAuth", "n8n incoming webhooks", {"name": "X-API-Key", "value": INCOMING_KEY})
    n8n.create_credentials("httpBasicAuth", "n8n forms", {"user": FORM_USER, "password": FORM_PASSWORD})
    if rabbitmq_url is not None:
        n8n.create_credentials("rabbitmq", "FlexDB RabbitMQ", rabbitmq_credential(rabbitmq_url))


def rabbitmq_credential(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "hostname": parts.hostname,
        "port": parts.port or 5672,
        "username": unquote(parts.username or "guest"),
        "password": unquote(parts.password or "guest"),
        "vhost": unquote(parts.path.removeprefix("/")) or "/",
        "ssl": False,
    }


@dataclass
class Pair:
    """`load` a shipped workflow, `run` it, look at the execution, at FlexDB, and at what the team was `told`."""

    n8n: RunningN8n
    flexdb: RunningService
    inbox: Receiver
    made: list[str] = field(default_factory=list)

    def load(
        self,
        name: str,
        settings: Mapping[str, Any] | None = None,
        *,
        publish: bool = False,
        patient: bool = False,
        **changes: Any,
    ) -> str:
        """Bring the shipped file `name` into n8n, pointed at this pair's FlexDB and inbox; its id there.

        `settings` go into its Settings node; `changes` replace whole top-level fields.
        """
        return self.add({**SHIPPED[name], **changes}, settings, publish=publish, patient=patient)

    def add(
        self,
        workflow: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        *,
        publish: bool = False,
        patient: bool = False,
    ) -> str:
        """Any workflow; its `errorWorkflow` is left out, as ids change from n8n to n8n, unless `settings` names one.

        Tries of a node follow each other quickly, unless `patient`.
        """
        given = {"flexdbUrl": self.flexdb_url, "notifyUrl": self.notify_url, **(settings or {})}
        ready = with_settings(workflow, given)
        ready["settings"] = {key: value for key, value in ready["settings"].items() if key != "errorWorkflow"}
        for node in ready["nodes"]:
            if "waitBetweenTries" in node and not patient:
                node["waitBetweenTries"] = 200
        if "errorWorkflow" in given:
            ready["settings"]["errorWorkflow"] = given["errorWorkflow"]
        workflow_id = self.n8n.create(ready)
        self.made.append(workflow_id)
        if publish:
            self.n8n.publish(workflow_id)
        return workflow_id

    @property
    def notify_url(self) -> str:
        """Where messages to the team go."""
        return urlsplit(self.inbox.url)._replace(path="/told", query="").geturl()

    @property
    def flexdb_url(self) -> str:
        return f"http://127.0.0.1:{self.flexdb.port}"

    def run(self, workflow_id: str, seconds: float = 60.0, trigger: str = "Run by hand") -> Execution:
        """Run it by hand to its end."""
        return self.n8n.ended(self.n8n.run(workflow_id, trigger), seconds)

    def told(self) -> list[str]:
        """The texts of all messages to the team, in order."""
        return [json.loads(received.body)["text"] for received in self.inbox.all if received.path == "/told"]

    def told_of(self, *words: str, seconds: float = 30.0) -> str:
        """The first message that has all these words, once it came."""

        def look() -> str | None:
            return next((text for text in self.told() if all(word in text for word in words)), None)

        return until(look, seconds, pause=0.1)

    def forget(self) -> None:
        """Remove the workflows of this test from n8n."""
        for workflow_id in self.made:
            self.n8n.request("POST", f"/api/v1/workflows/{workflow_id}/deactivate", None, self._key)
            until(partial(self._removed, workflow_id), 20, pause=0.2)
        self.made.clear()

    def _removed(self, workflow_id: str) -> bool:
        """409 while its triggers have not all stopped."""
        return self.n8n.request("DELETE", f"/api/v1/workflows/{workflow_id}", None, self._key).status != 409

    @property
    def _key(self) -> dict[str, str]:
        return {"X-N8N-API-KEY": self.n8n.api_key}


def sqlite_shop(folder: Path, name: str = "shop", orders: int = 50) -> str:
    """A small database file; its connection URL."""
    import sqlite3

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.sqlite"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, cents INTEGER NOT NULL)")
        connection.executemany("INSERT INTO orders (cents) VALUES (?)", [(number * 7,) for number in range(orders)])
    connection.close()
    return f"sqlite:///{path}"
