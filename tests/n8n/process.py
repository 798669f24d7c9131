"""A real n8n as a process of its own, that tests fill, ask, stop, kill and start again on the same folder."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from engines.command import TETHER
from tests.acceptance.service_process import Answer, until
from tests.rabbitmq import free_ports
from tools.n8n_install import Installed

READY_SECONDS = 120.0
ENDED = frozenset({"success", "error", "canceled", "crashed"})
Reply = Answer
"""What n8n answered; FlexDB answers are the same kind of thing."""
OWNER = {"email": "owner@example.org", "firstName": "O", "lastName": "W", "password": "Owner-password-1"}


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a workflow, as n8n keeps it."""

    record: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def status(self) -> str:
        """`running`, `waiting`, or one of `ENDED`."""
        return str(self.record["status"])

    @property
    def nodes(self) -> list[str]:
        """The names of all nodes that ran."""
        return list(self._runs)

    @property
    def error(self) -> str:
        """Why it failed; empty when it did not."""
        found = self.record.get("data", {}).get("resultData", {}).get("error") or {}
        return f"{found.get('message', '')} {found.get('description') or ''}".strip()

    def output(self, node: str, branch: int = 0, run: int = -1) -> list[dict[str, Any]]:
        """The items that a node gave on one of its outputs, of its last run unless told otherwise."""
        branches = self._runs[node][run]["data"]["main"]
        items = branches[branch] if branch < len(branches) else None
        return [item["json"] for item in items or []]

    def times(self, node: str) -> int:
        """How often a node ran."""
        return len(self._runs.get(node, []))

    @property
    def _runs(self) -> dict[str, Any]:
        runs: dict[str, Any] = self.record.get("data", {}).get("resultData", {}).get("runData", {})
        return runs


class _Tied:
    """A process of n8n under the guard that client tools run under: when we end, its whole group is killed."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str], log_file: Path) -> None:
        held_by_guard, held_by_us = os.pipe()
        self._held_by_us: int | None = held_by_us
        with log_file.open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-S", "-E", "-I", str(TETHER), str(held_by_guard), *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(held_by_guard,),
                start_new_session=True,
            )
        os.close(held_by_guard)

    def poll(self) -> int | None:
        """n8n's own exit code, once it has ended."""
        return self._guard.poll()

    def stop(self) -> None:
        """SIGTERM to n8n alone, which ends its task runner itself; the guard would not hand it on."""
        if self.poll() is None:
            for n8n in psutil.Process(self._guard.pid).children():
                n8n.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._guard.wait(40)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to n8n and its task runner: they are one session of ours. A second time does nothing."""
        if self.poll() is None:
            os.killpg(self._guard.pid, signal.SIGKILL)
            self._guard.wait(10)
        if self._held_by_us is not None:
            os.close(self._held_by_us)
            self._held_by_us = None


class RunningN8n:
    """n8n on two free ports of loopback, all it keeps below `folder`. It ends with this process, however that ends.

    `start`, then `call` for the public API, `rest` for what the editor uses, `webhook` for what callers use.
    """

    def __init__(self, folder: Path, installed: Installed, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.log = folder / "n8n.log"
        self.port, self._broker_port, self._spare_port = free_ports(3)
        self._installed = installed
        self._settings = dict(settings or {})
        self._process: _Tied | None = None
        self._worker: _Tied | None = None
        self._cookie = ""
        self.api_key = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cookie(self) -> str:
        """`name=value` that the owner's browser would send."""
        return self._cookie

    # -- life

    def state(self) -> dict[str, Any]:
        """What `attached` needs to use this very server from another process."""
        return {"folder": str(self.folder), "port": self.port, "cookie": self._cookie, "api_key": self.api_key}

    @classmethod
    def attached(cls, state: Mapping[str, Any], installed: Installed) -> RunningN8n:
        """A server that another process started and will end."""
        found = cls(Path(state["folder"]), installed)
        found.port, found._cookie, found.api_key = state["port"], state["cookie"], state["api_key"]
        return found

    def start(self) -> RunningN8n:
        """Returns when it is ready; webhooks of published workflows may come a little later."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = self._launched("start", self._broker_port)
        until(self._is_ready, READY_SECONDS, pause=0.1)
        return self

    def start_worker(self) -> None:
        """In queue mode: a process of its own that runs what the server puts into the queue."""
        self._worker = self._launched("worker", self._spare_port)
        until(lambda: "n8n worker is now ready" in self.last_words(400).lower(), READY_SECONDS, pause=0.2)

    def kill_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    def _launched(self, command: str, broker_port: int) -> _Tied:
        return _Tied(self._command(command), self.folder, self._environment(broker_port), self.log)

    def own(self) -> RunningN8n:
        """Make the owner and an API key that may do everything, once; after a restart they are still there."""
        if self.api_key:
            return self
        self._keep_cookie(self.request("POST", "/rest/owner/setup", OWNER))
        scopes = self.rest("GET", "/rest/api-keys/scopes")
        made = self.rest("POST", "/rest/api-keys", {"label": "tests", "expiresAt": None, "scopes": scopes})
        self.api_key = str(made["rawApiKey"])
        return self

    def log_in(self) -> None:
        """After the server was started on a folder that had an owner already."""
        body = {"emailOrLdapLoginId": OWNER["email"], "password": OWNER["password"]}
        self._keep_cookie(self.request("POST", "/rest/login", body))

    def stop(self) -> None:
        """SIGTERM and wait for the end."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End whatever this harness started."""
        for process in (self._worker, self._process):
            if process is not None:
                process.kill()

    def last_words(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def cli(self, *arguments: str, seconds: float = 180) -> str:
        """One command of n8n's own command line on this folder; what it printed. Fails when it fails."""
        done = subprocess.run(
            self._command(*arguments),
            cwd=self.folder,
            env=self._environment(self._spare_port),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"n8n {' '.join(arguments)} ended with {done.returncode}:\n{said[-3000:]}"
        return said

    # -- asking

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, seconds: float = 60
    ) -> Reply:
        """One request as it is. Anything but bytes goes as JSON."""
        sent: dict[str, str] = {}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(method, path, body=body, headers=sent | dict(headers or {}))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())
        finally:
            connection.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The public API, `/api/v1` left out; fails unless it succeeds."""
        reply = self.request(method, f"/api/v1{path}", body, {"X-N8N-API-KEY": self.api_key})
        assert reply.status < 300, f"{method} {path}: {reply.status} {reply.body[:2000]!r}"
        return reply.json if reply.body else None

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """What the editor asks for, as the owner; fails unless it succeeds."""
        reply = self.request(method, path, body, {"Cookie": self._cookie})
        assert reply.status < 300, f"{method} {path}: {reply.status} {reply.body[:2000]!r}"
        return reply.json["data"]

    def webhook(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, method: str = "POST"
    ) -> Reply:
        """A published workflow's webhook, once it is registered: publishing answers a little sooner."""

        def look() -> Reply | None:
            reply = self.request(method, path, body, headers)
            return None if reply.status == 404 and b"is not registered" in reply.body else reply

        return until(look, 30, pause=0.1)

    # -- workflows

    def create_credentials(self, kind: str, name: str, data: Mapping[str, Any]) -> str:
        """Its id."""
        return str(self.call("POST", "/credentials", {"name": name, "type": kind, "data": dict(data)})["id"])

    def create(self, workflow: Mapping[str, Any]) -> str:
        """Make a workflow by the public API, which links credentials by name; its id, a new one."""
        body = {field: workflow[field] for field in ("name", "nodes", "connections", "settings")}
        return str(self.call("POST", "/workflows", body)["id"])

    def publish(self, workflow_id: str) -> None:
        """Its triggers are live from now on."""
        self.call("POST", f"/workflows/{workflow_id}/activate")

    def unpublish(self, workflow_id: str) -> None:
        self.call("POST", f"/workflows/{workflow_id}/deactivate")

    def run(self, workflow_id: str, trigger: str = "Run by hand") -> str:
        """Run it as the editor's button does, from a trigger; the execution's id."""
        body = {"workflowData": self.rest("GET", f"/rest/workflows/{workflow_id}")}
        body["triggerToStartFrom"] = {"name": trigger}
        return str(self.rest("POST", f"/rest/workflows/{workflow_id}/run", body)["executionId"])

    def execution(self, execution_id: str) -> Execution:
        return Execution(self.call("GET", f"/executions/{execution_id}?includeData=true"))

    def executions(self, workflow_id: str) -> list[Execution]:
        """All of a workflow, the newest first."""
        found = self.call("GET", f"/executions?workflowId={workflow_id}&includeData=true&limit=250")["data"]
        return [Execution(record) for record in found]

    def ended(self, execution_id: str, seconds: float = 60.0) -> Execution:
        """The execution once it has ended."""
        return self._reached(execution_id, ENDED, seconds)

    def waiting(self, execution_id: str, seconds: float = 30.0) -> Execution:
        """The execution once it waits (or has ended, which the caller should look at)."""
        return self._reached(execution_id, ENDED | {"waiting"}, seconds)

    def _reached(self, execution_id: str, statuses: frozenset[str], seconds: float) -> Execution:
        def look() -> Execution | None:
            found = self.execution(execution_id)
            return found if found.status in statuses else None

        return until(look, seconds, pause=0.1)

    # -- inside

    def _command(self, *arguments: str) -> list[str]:
        return [str(self._installed.node), str(self._installed.n8n), *arguments]

    def _environment(self, broker_port: int) -> dict[str, str]:
        """Nothing of the caller's own n8n reaches it, and it asks nothing of the outside."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("N8N_", "FLEXDB_"))}
        return inherited | {
            "PATH": f"{self._installed.node.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "N8N_USER_FOLDER": str(self.folder),
            "N8N_LISTEN_ADDRESS": "127.0.0.1",
            "N8N_HOST": "127.0.0.1",
            "N8N_PORT": str(self.port),
            "N8N_RUNNERS_BROKER_PORT": str(broker_port),
            "N8N_RUNNERS_MODE": "internal",
            "WEBHOOK_URL": f"{self.url}/",
            "N8N_DIAGNOSTICS_ENABLED": "false",
            "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
            "N8N_TEMPLATES_ENABLED": "false",
            "N8N_PERSONALIZATION_ENABLED": "false",
            "N8N_COMMUNITY_PACKAGES_ENABLED": "false",
            "N8N_LICENSE_AUTO_RENEW_ENABLED": "false",
            "N8N_ENCRYPTION_KEY": "an-encryption-key-for-tests",
            "N8N_SECURE_COOKIE": "false",
            "N8N_ENFORCE_SETTINGS_FILE_PERMISSIONS": "false",
            "N8N_DISABLED_MODULES": ",".join(self._outgoing_modules()),
            "GENERIC_TIMEZONE": "UTC",
            **self._settings,
        }

    def _outgoing_modules(self) -> list[str]:
        """Those that call the outside at start, as far as this version has them: it refuses to hear of others."""
        folder = self._installed.n8n.parents[1] / "dist" / "modules"
        there = {path.name.removesuffix(".ee") for path in folder.iterdir()}
        return sorted(there & {"mcp-registry", "instance-ai", "chat-hub", "insights"})

    def _is_ready(self) -> bool:
        assert self._process is not None
        code = self._process.poll()
        assert code is None, f"n8n ended with {code} instead of becoming ready:\n{self.last_words()}"
        try:
            return self.request("GET", "/healthz/readiness", seconds=5).status == 200
        except OSError:
            return False

    def _keep_cookie(self, reply: Reply) -> None:
        assert reply.status == 200, f"n8n did not let its owner in: {reply.status} {reply.body[:500]!r}"
        self._cookie = reply.headers["set-cookie"].partition(";")[0]
