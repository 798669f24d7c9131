"""The composition root: builds everything from settings, starts it in order, stops it in reverse."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import structlog
import uvloop
from aiohttp import web
from pydantic import SecretStr

from engines.registry import EngineRegistry
from engines.sample import make_sample_shop
from engines.storage.registry import open_store
from handlers.registry import build_handlers
from service import __version__, logs
from service.access import Access, InvalidSource
from service.catalogue import LedgerCatalogue, StorageSweep
from service.connections import NamedConnections, NamedStores
from service.endings import Backoff
from service.home import Home, HomeUnusable, new_token, new_webhook_secret
from service.housekeeping import Housekeeping
from service.http import routes
from service.http.keys import Parts
from service.hub import Hub
from service.intake import Intake
from service.ledger.base import Change, Ledger, LedgerInUse, LedgerUnavailable, Rules
from service.ledger.sqlite import SQLiteLedger
from service.outbox import Outbox
from service.outgoing import OutgoingPolicy
from service.settings import Settings, unknown_variables
from service.verdicts import Pace
from service.webhooks_out import WebhookSender
from service.worker import Worker, WorkerRules

log = structlog.get_logger(__name__)


class CannotStart(Exception):
    """A configuration the service refuses; the message says what to do."""


def ledger_path(settings: Settings, home: Home) -> Path:
    """The SQLite ledger's file. Raises `CannotStart` for a URL of another kind."""
    if settings.ledger_url is None:
        return home.ledger
    url = urlsplit(settings.ledger_url)
    if url.scheme != "sqlite" or not url.path.strip("/"):
        raise CannotStart("FLEXDB_LEDGER_URL must be sqlite:///PATH; leave it out for a file in FLEXDB_HOME.")
    return Path(unquote(url.path[1:]))


class Service:
    """One process of FlexDB, built but not started. `start` and `stop` are called once each."""

    def __init__(self, settings: Settings) -> None:
        """Raises `CannotStart`, `HomeUnusable`."""
        self.settings = settings
        self.home = Home(settings.home)
        if not settings.listens_on_loopback and settings.token is None:
            raise CannotStart(
                f"FLEXDB_HOST is {settings.host}: to listen on anything but loopback, "
                "set FLEXDB_TOKEN to a token of your own."
            )
        self.home.prepare()
        self.first_steps: list[str] = []
        token = self._secret(settings.token, self.home.token, new_token(), "token")
        self.webhook_secrets = self._secret(
            settings.webhook_secret, self.home.webhook_secret, new_webhook_secret(), "webhook secret"
        ).split()
        self.engines = EngineRegistry.default(settings.tool_path)
        path = ledger_path(settings, self.home)
        self.connections = self._connections(path)
        self.stores = self._stores()
        self.ledger: Ledger = SQLiteLedger(
            path, Rules(queue_limit=settings.queue_limit, lease_seconds=settings.lease_seconds)
        )
        self.access = Access(
            token,
            {name: secret.get_secret_value() for name, secret in settings.sources.items()},
            replay_window=settings.replay_window,
        )
        self.policy = OutgoingPolicy.of(
            settings.outgoing_allow,
            loopback_for_callbacks=not settings.outgoing_allow and settings.listens_on_loopback,
        )
        self.hub = Hub()
        self.draining = False

    def _secret(self, given: SecretStr | None, path: Path, fresh: str, what: str) -> str:
        if given is not None:
            return given.get_secret_value()
        value, made = self.home.kept_secret(path, fresh)
        if made:
            self.first_steps.append(f"made a {what} in {path} (mode 0600)")
        return value

    def _connections(self, ledger: Path) -> NamedConnections:
        urls = {name: url.get_secret_value() for name, url in self.settings.connections.items()}
        if not urls:
            if not self.home.demo.exists():
                self.first_steps.append(f"made a demo database in {self.home.demo}, connection `demo`")
            make_sample_shop(self.home.demo)
            urls["demo"] = f"sqlite:///{self.home.demo.absolute()}"
        return NamedConnections(
            urls,
            self.engines,
            scratch=self.settings.scratch,
            protected=(self.home.folder, ledger),
            exempt=(self.home.demo_folder,),
        )

    def _stores(self) -> NamedStores:
        url = self.settings.storage_url
        stores = {"default": open_store("default", url.get_secret_value() if url else str(self.home.storage))}
        for name, named in self.settings.stores.items():
            stores[name] = open_store(name, named.get_secret_value())
        return NamedStores(stores)

    # -- life

    async def start(self) -> None:
        """Open the ledger, then start what works on it, then answer. Raises `CannotStart`."""
        settings = self.settings
        try:
            await self.ledger.open()
        except (LedgerInUse, LedgerUnavailable) as error:
            raise CannotStart(f"The ledger cannot be used: {error}") from error
        self.ledger.watch(self._heard)
        catalogue = LedgerCatalogue(self.ledger, self.stores, asyncio.get_running_loop())
        self.handlers = build_handlers(self.connections, self.stores, catalogue, self.engines, __version__)
        self.intake = Intake(
            self.ledger,
            self.handlers,
            lambda url: self.policy.refuse_literal(url, "callback"),
            max_attempts=settings.max_attempts,
        )
        self.worker = Worker(self.ledger, self.handlers, self.hub, worker_rules(settings), self.home.work)
        self.sender = WebhookSender(
            self.policy,
            self.webhook_secrets,
            jwt_secret=settings.webhook_jwt_secret.get_secret_value() if settings.webhook_jwt_secret else None,
            timeout=settings.webhook_timeout,
            pace=Pace(schedule=settings.webhook_schedule, callback_limit=settings.callback_hours * 3600),
        )
        self.outbox = Outbox(self.ledger, self.sender)
        self.housekeeping = Housekeeping(
            self.ledger,
            StorageSweep(self.ledger, self.stores),
            self.connections,
            self.engines,
            keep_seconds=settings.keep_jobs * 86400,
        )
        if settings.role in ("all", "worker"):
            await self.worker.start()
            self.housekeeping.start()
        if settings.role in ("all", "relay"):
            self.outbox.start()

    def _heard(self, change: Change) -> None:
        if change.kind == "job" and change.job_id is not None:
            self.hub.job_changed(change.job_id)

    async def stop(self) -> None:
        """Drain: no new claims, running jobs get their time, deliveries in flight end, the ledger closes last."""
        self.draining = True
        if self.settings.role in ("all", "worker"):
            await self.housekeeping.stop()
            await self.worker.stop(self.settings.drain_seconds)
        if self.settings.role in ("all", "relay"):
            await self.outbox.stop()
        await self.sender.close()
        await self.ledger.close()

    def not_ready(self) -> list[str]:
        """Why no work should be sent here now."""
        return ["the service is draining"] if self.draining else []

    def application(self) -> web.Application:
        """The HTTP side; call it after `start`."""
        return routes.make_app(
            Parts(
                ledger=self.ledger,
                intake=self.intake,
                access=self.access,
                hub=self.hub,
                connections=self.connections,
                stores=self.stores,
                engines=self.engines,
                policy=self.policy,
                max_body_bytes=self.settings.max_body_bytes,
                cancel_now=self.worker.cancel_now,
                not_ready=self.not_ready,
            )
        )


def worker_rules(settings: Settings) -> WorkerRules:
    return WorkerRules(
        concurrency=settings.concurrency,
        lease_seconds=settings.lease_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        backoff=Backoff(base=settings.retry_base_seconds),
    )


async def run(settings: Settings, *, say: Callable[[str], None] = print) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises `CannotStart`, `HomeUnusable`."""
    service = Service(settings)
    await service.start()
    runner = web.AppRunner(service.application(), access_log=None, handler_cancellation=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise CannotStart(f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}.") from error
        gc.collect()
        gc.freeze()  # what was built stays to the end: the collector need not look at it again and again
        url = _url(settings.host, runner)
        announce(service, url, say)
        await _until_told_to_stop()
        say("FlexDB drains: running jobs may end, then it stops")
        await service.stop()
    finally:
        await runner.cleanup()


def _url(host: str, runner: web.AppRunner) -> str:
    port = runner.addresses[0][1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def announce(service: Service, url: str, say: Callable[[str], None]) -> None:
    """What a person at the terminal wants to know; never a secret."""
    settings = service.settings
    for step in service.first_steps:
        say(step)
    where = "this machine only" if settings.listens_on_loopback else "every machine that can reach it"
    say(f"FlexDB {__version__} listens on {url}, for {where}")
    if settings.token is None:
        say(f"the token is in {service.home.token}")
    say(f"connections: {', '.join(service.connections.names())} · what it takes: {url}/docs")
    log.info("service_ready", url=url, role=settings.role, pid=os.getpid())


async def _until_told_to_stop() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()


def serve(settings: Settings) -> int:
    """Run the service in the foreground; the exit code. What prevents a start is said in one sentence."""
    logs.configure(settings.log_level, settings.log_format)
    for name in unknown_variables():
        log.warning("unknown_setting", name=name)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings, say=_say))
    except (CannotStart, HomeUnusable, InvalidSource, ValueError) as error:
        sys.stderr.write(f"flexdb: {error}\n")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
