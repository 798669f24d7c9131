"""The composition root: builds everything from settings, starts it in order, stops it in reverse."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import uvloop
from aiohttp import web
from pydantic import SecretStr

from engines.calculating import Limits
from engines.errors import FlexError
from engines.registry import EngineRegistry
from engines.sample import make_sample_shop
from engines.storage.base import Store
from engines.storage.registry import open_store
from handlers.base import Handler
from handlers.registry import build_calculator, build_handlers
from service import __version__, logs
from service.access import Access, InvalidSource
from service.amqp.names import Names, address_of
from service.catalogue import LedgerCatalogue, StorageSweep
from service.connections import NamedConnections, NamedStores
from service.endings import Backoff
from service.event import OutEvent
from service.home import Home, HomeUnusable, new_token, new_webhook_secret
from service.housekeeping import Housekeeping
from service.http import routes
from service.http.keys import Parts
from service.hub import Hub
from service.intake import Intake
from service.ledger.records import Change, LedgerInUse, LedgerUnavailable, Rules
from service.ledger.registry import is_shared, ledger_file, ledger_places, make_ledger
from service.outbox import Outbox
from service.outgoing import OutgoingPolicy
from service.scheduler import Scheduler
from service.settings import Settings, unknown_variables
from service.supplies import RecordServices
from service.verdicts import Pace
from service.webhooks_out import WebhookSender
from service.worker import Worker, WorkerRules

if TYPE_CHECKING:  # with their driver they are imported where RabbitMQ is configured
    from service.amqp.consumer import Consumer
    from service.amqp.dead_letters import DeadLetters
    from service.amqp.relay import Relay

log = structlog.get_logger(__name__)


class CannotStart(Exception):
    """A configuration the service refuses; the message says what to do."""


class Service:
    """One process of FlexDB, built but not started. `start` and `stop` are called once each."""

    def __init__(self, settings: Settings, extra_handlers: Sequence[Handler[Any]] = ()) -> None:
        """`extra_handlers`: operations beside the product's own.

        Raises `CannotStart`, `HomeUnusable`, `ValueError` for a URL that cannot be used.
        """
        self.settings = settings
        self._extra_handlers = extra_handlers
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
        self.engines = EngineRegistry.default(settings.tool_path, calculation_limits(settings))
        self.ledger_url = settings.ledger_url.get_secret_value() if settings.ledger_url else None
        self.amqp_url = settings.amqp_url.get_secret_value() if settings.amqp_url else None
        if self.amqp_url is not None:
            address_of(self.amqp_url)  # what cannot be read must show at start, not in every attempt to connect
        self.names = Names.of(settings.amqp_name)
        self.connections = self._connections(ledger_file(self.ledger_url, self.home.ledger))
        self.stores = self._stores()
        rules = Rules(
            queue_limit=settings.queue_limit,
            lease_seconds=settings.lease_seconds,
            exchange=self.names.events if self.amqp_url else None,
        )
        self.ledger = make_ledger(self.ledger_url, self.home.ledger, rules)
        self.access = Access(
            token,
            {name: secret.get_secret_value() for name, secret in settings.sources.items()},
            replay_window=settings.replay_window,
        )
        self.policy = OutgoingPolicy.of(
            settings.outgoing_allow,
            loopback_for_callbacks=not settings.outgoing_allow and settings.listens_on_loopback,
        )
        self.hub = Hub(self._pass_progress_on if is_shared(self.ledger_url) else None)
        self._passing: set[asyncio.Task[None]] = set()
        self.draining = False

    def _secret(self, given: SecretStr | None, path: Path, fresh: str, what: str) -> str:
        if given is not None:
            return given.get_secret_value()
        value, made = self.home.kept_secret(path, fresh)
        if made:
            self.first_steps.append(f"made a {what} in {path} (mode 0600)")
        return value

    def _connections(self, ledger: Path | None) -> NamedConnections:
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
            protected=(self.home.folder,) if ledger is None else (self.home.folder, ledger),
            exempt=(self.home.demo_folder,),
            ledgers=ledger_places(self.ledger_url),
        )

    def _stores(self) -> NamedStores:
        url = self.settings.storage_url
        stores = {"default": _store("default", url.get_secret_value() if url else str(self.home.storage))}
        for name, named in self.settings.stores.items():
            stores[name] = _store(name, named.get_secret_value())
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
        self.records = await self._open_records()
        supplies = self.records.for_handlers(self.stores, catalogue)
        self.calculator = build_calculator(supplies)
        self.handlers = {
            **build_handlers(supplies, self.calculator),
            **{handler.operation: handler for handler in self._extra_handlers},
        }
        self.intake = Intake(
            self.ledger,
            self.handlers,
            lambda url: self.policy.refuse_literal(url, "callback"),
            max_attempts=settings.max_attempts,
            look_again=self.records.collections.load,
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
            StorageSweep(self.ledger, self.stores, keep=timedelta(days=settings.keep_jobs)),
            self.connections,
            self.engines,
            keep_seconds=settings.keep_jobs * 86400,
        )
        self._connect_rabbitmq()
        self._warn_of_what_replicas_do_not_share()
        if self._plays("worker"):
            await self.worker.start()
            self.housekeeping.start()
        if self._plays("relay"):
            self.outbox.start()
        if self.relay is not None:
            self.relay.start()
        if self._plays("intake"):
            self.scheduler.start()
        if self.consumer is not None:
            self.consumer.start()

    async def _open_records(self) -> RecordServices:
        try:
            records = RecordServices(self.settings, self.ledger, self.connections, self.engines, self.policy)
        except ValueError as error:
            raise CannotStart(str(error)) from None
        await records.start()
        return records

    def _plays(self, role: str) -> bool:
        return self.settings.role in ("all", role)

    def _connect_rabbitmq(self) -> None:
        """Build what talks to RabbitMQ, as far as it is configured and this process's role asks for it."""
        settings = self.settings
        self.scheduler = Scheduler(self.ledger, self.intake)
        self.consumer: Consumer | None = None
        self.relay: Relay | None = None
        self.dead_letters: DeadLetters | None = None
        if self.amqp_url is None:
            return
        from service.amqp.consumer import Consumer
        from service.amqp.dead_letters import DeadLetters
        from service.amqp.relay import Relay

        self.dead_letters = DeadLetters(self.amqp_url, self.names)
        if self._plays("intake"):
            self.consumer = Consumer(
                self.amqp_url,
                self.names,
                self.intake,
                self.access,
                prefetch=settings.amqp_prefetch,
                trust_broker=settings.amqp_credentials == "broker",
                max_body_bytes=settings.max_body_bytes,
            )
        if self._plays("relay"):
            self.relay = Relay(self.ledger, self.amqp_url, self.names, schedule=settings.webhook_schedule)

    def _warn_of_what_replicas_do_not_share(self) -> None:
        """Replicas on one ledger must agree in what callers and receivers see of them."""
        if not is_shared(self.ledger_url):
            return
        settings = self.settings
        for name, given in (("FLEXDB_TOKEN", settings.token), ("FLEXDB_WEBHOOK_SECRET", settings.webhook_secret)):
            if given is None:
                log.warning("setting_not_shared", name=name, hint="Each replica made its own; set one for all of them.")
        if settings.storage_url is None or "://" not in settings.storage_url.get_secret_value():
            hint = "Artefacts lie on this machine only; set FLEXDB_STORAGE_URL to an object store for several machines."
            log.warning("storage_not_shared", name="FLEXDB_STORAGE_URL", hint=hint)

    def _heard(self, change: Change) -> None:
        if change.job_id is None:
            return
        if change.kind == "job":
            self.hub.job_changed(change.job_id)
        elif change.kind == "progress" and change.progress is not None:
            self.hub.heard(change.job_id, json.loads(change.progress))

    def _pass_progress_on(self, job_id: str, event: OutEvent) -> None:
        task = asyncio.create_task(self._tell_progress(job_id, event))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _tell_progress(self, job_id: str, event: OutEvent) -> None:
        try:
            await self.ledger.tell_progress(job_id, json.loads(event.body))
        except LedgerUnavailable:
            log.debug("progress_not_passed_on", job_id=job_id)  # the next one may be

    def rabbitmq(self) -> dict[str, bool]:
        """Whether the connections this process should have stand."""
        states = {"in": self.consumer, "out": self.relay}
        return {name: part.connected for name, part in states.items() if part is not None}

    async def stop(self) -> None:
        """Drain: no new claims, running jobs get their time, deliveries in flight end, the ledger closes last."""
        self.draining = True
        taking_in = [part.stop() for part in (self.consumer, self.scheduler if self._plays("intake") else None) if part]
        await asyncio.gather(*taking_in)
        if self._plays("worker"):
            await self.housekeeping.stop()
            await self.worker.stop(self.settings.drain_seconds)
        sending = [part.stop() for part in (self.relay, self.outbox if self._plays("relay") else None) if part]
        await asyncio.gather(*sending)
        if self.dead_letters is not None:
            await self.dead_letters.close()
        await self.sender.close()
        await self.records.stop()
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
                amqp=self.rabbitmq,
                dead_letters=self.dead_letters,
                records=self.records.parts(),
                calculator=self.calculator,
                calculations=calculation_limits(self.settings),
            )
        )


def _store(name: str, url: str) -> Store:
    """Raises `CannotStart`, whose text holds no part of the URL: it may hold a key."""
    variable = "FLEXDB_STORAGE_URL" if name == "default" else f"FLEXDB_STORES__{name.upper()}"
    try:
        return open_store(name, url)
    except FlexError as error:
        raise CannotStart(f"{variable}: {error.message} {error.hint}") from None
    except ValueError:
        told = "cannot be read as a URL; percent-encode what is special in it."
        raise CannotStart(f"{variable} {told}") from None


def calculation_limits(settings: Settings) -> Limits:
    return Limits(
        processes=settings.calculation_processes,
        seconds=settings.calculation_seconds,
        megabytes=settings.calculation_megabytes,
        digits=settings.calculation_digits,
    )


def worker_rules(settings: Settings) -> WorkerRules:
    return WorkerRules(
        concurrency=settings.concurrency,
        lease_seconds=settings.lease_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        backoff=Backoff(base=settings.retry_base_seconds),
    )


async def run(
    settings: Settings, *, say: Callable[[str], None] = print, extra_handlers: Sequence[Handler[Any]] = ()
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises `CannotStart`, `HomeUnusable`, `InvalidLedgerURL`."""
    service = Service(settings, extra_handlers)
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


def serve(settings: Settings, *, extra_handlers: Sequence[Handler[Any]] = ()) -> int:
    """Run the service in the foreground; the exit code. What prevents a start is said in one sentence."""
    logs.configure(settings.log_level, settings.log_format)
    for name in unknown_variables():
        log.warning("unknown_setting", name=name)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings, say=_say, extra_handlers=extra_handlers))
    except (CannotStart, HomeUnusable, InvalidSource, ValueError) as error:  # InvalidLedgerURL is a ValueError
        sys.stderr.write(f"flexdb: {error}\n")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
