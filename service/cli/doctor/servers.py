"""The doctor's look at the servers FlexDB itself stands on: the ledger's PostgreSQL, and RabbitMQ."""

from __future__ import annotations

import asyncio

from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity

from service.amqp.channels import ChannelGone, within
from service.amqp.names import Names, address_of
from service.amqp.topology import connect
from service.cli.doctor.finding import Finding, fails, ok, warning
from service.ledger.postgres_look import Look, look
from service.ledger.records import InvalidLedgerURL, LedgerUnavailable
from service.ledger.registry import is_shared
from service.settings import Settings

AREA = "servers"
SECONDS = 10.0


def examine_servers(settings: Settings) -> list[Finding]:
    """Nothing is made or changed on either of them."""
    return [*_ledger(settings), *_rabbitmq(settings)]


def _ledger(settings: Settings) -> list[Finding]:
    url = settings.ledger_url.get_secret_value() if settings.ledger_url else None
    if url is None or not is_shared(url):
        return []
    try:
        found = look(url)
    except InvalidLedgerURL:
        return []  # told among the settings
    except LedgerUnavailable as error:
        return [fails(AREA, "ledger", str(error), "Start the server, or correct FLEXDB_LEDGER_URL.")]
    return [_schema(found), *_loose(found)]


def _schema(found: Look) -> Finding:
    text = f"PostgreSQL {found.version} at {found.place}"
    if found.schema is None and not found.may_create:
        mend = f"GRANT CREATE ON DATABASE {found.database} TO {found.user}, or make the schema flexdb for that user."
        return fails(AREA, "ledger", f"{text}: there is no schema yet, and {found.user} may not make one", mend)
    return ok(AREA, "ledger", f"{text}, schema {found.schema or 'made at the first start'}")


def _loose(found: Look) -> list[Finding]:
    return [
        warning(AREA, "ledger", f"{name} is off: what was accepted may be lost with the power", f"Set {name} = on.")
        for name in found.loose
    ]


def _rabbitmq(settings: Settings) -> list[Finding]:
    if settings.amqp_url is None:
        return []
    url = settings.amqp_url.get_secret_value()
    try:
        place = address_of(url)
    except ValueError as error:
        return [fails(AREA, "rabbitmq", str(error), "See FLEXDB_AMQP_URL in .env.example.")]
    try:
        return [asyncio.run(_looked(url, place, Names.of(settings.amqp_name)))]
    except (AMQPError, ChannelGone, OSError) as error:
        mend = "Start the broker, or correct FLEXDB_AMQP_URL; the service itself goes on trying."
        return [fails(AREA, "rabbitmq", f"{place}: {type(error).__name__}", mend)]


async def _looked(url: str, place: str, names: Names) -> Finding:
    connection = await connect(url, "flexdb doctor")
    async with connection:
        channel = await connection.channel(publisher_confirms=False)
        try:
            queue = await within(SECONDS, channel.get_queue(names.dead))
        except ChannelNotFoundEntity:
            return ok(AREA, "rabbitmq", f"{place}: let in; exchanges and queues are made at the first start")
        letters = queue.declaration_result.message_count or 0
    if letters:
        text = f"{place}: {letters} messages in {names.dead} that were not understood"
        return warning(AREA, "rabbitmq", text, "flexdb dead list shows them, flexdb dead redrive sends them again.")
    return ok(AREA, "rabbitmq", f"{place}: let in, no dead letters")
