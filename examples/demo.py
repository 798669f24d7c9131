"""The demo: an event becomes a proven backup and a restored database, with signed completion events;
then the customers of an API become a collection.

Runs by `make demo`; `make demo DATABASE_URL=postgresql://…` does the same with a server of yours. Nothing
outside a temporary folder is touched; on your server only databases named `flexdb_demo_…` and
`flexdb_scratch_…` are made, and dropped at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from examples.shopdemo.comparing import Compared, Differs, Interrupted
from examples.shopdemo.customers import (
    COLLECTION,
    PAGE,
    NotTakenIn,
    compare_customers,
    customer_api,
    page_of,
    post_ingest,
)
from examples.shopdemo.process import ServiceDied, ServiceProcess
from examples.shopdemo.receiver import BadSignature, Receiver
from examples.shopdemo.sqlite import SQLiteShop
from service.cli.stream import EventStream

LIMIT_SECONDS = 1800.0
WEBHOOK_SECONDS = 60.0


class DemoFailed(Exception):
    """Something did not come out as promised; the message is the sentence to show."""


class Source(Protocol):
    """The database that is backed up."""

    engine: str
    url: str
    records_url: str
    """An empty database for what is ingested."""
    into: str

    def prepare(self) -> str: ...

    def compare(self) -> Compared: ...

    def written_meanwhile(self) -> bool: ...

    def clean(self, job_ids: set[str]) -> None: ...


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Demo:
    """The steps, in order. `run` raises `DemoFailed`; `clean` may be called at any time after."""

    def __init__(self, source: Any, folder: Path) -> None:
        self.source: Source = source
        self.stop: Any = source.stop
        self.service: ServiceProcess | None = None
        self.receiver: Receiver | None = None
        self.folder = folder
        self.job_ids: set[str] = set()

    async def run(self) -> None:
        step(1, self.source.engine)
        say(f"   {await asyncio.to_thread(self.source.prepare)}")
        self.service = ServiceProcess(self.folder, self.source.url, self.source.records_url)
        step(2, "the service starts as a process of its own")
        began = time.monotonic()
        await self.service.start()
        say(f"   {self.service.url} was ready after {time.monotonic() - began:.1f} s")
        self.receiver = Receiver(self.service.secret("webhook_secret"))
        await self.receiver.start()
        headers = {"Authorization": f"Bearer {self.service.secret('token')}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            await self._story(session, self.service, self.receiver)

    async def _story(self, session: aiohttp.ClientSession, service: ServiceProcess, receiver: Receiver) -> None:
        step(3, "an event asks for a backup, proven on level 3: restored into a scratch database and counted")
        backup = await self._job(session, service, receiver, self._backup_request(receiver))
        manifest_path = service.home / "storage" / "shop" / backup["backup_id"] / "manifest.json"
        manifest = json.loads(manifest_path.read_text())
        step(4, f"an event asks to restore it into {self.source.into}")
        data = {"backup_id": backup["backup_id"], "connection": "shop", "into": self.source.into}
        restore = await self._job(session, service, receiver, ("restore", data | {"callback_url": receiver.url}))
        step(5, "every row of the source is compared with the restored database")
        compared = await self._compare()
        step(6, "one byte of the stored backup is flipped, and it is verified again")
        await self._flip_a_byte(session, service, backup, manifest_path.parent)
        await self._ingest(session, service, receiver)
        summary(backup, restore, compared, manifest, manifest_path)

    def _backup_request(self, receiver: Receiver) -> tuple[str, dict[str, Any]]:
        data = {
            "connection": "shop",
            "verify": 3,
            "labels": {"made-by": "demo"},
            "callback_url": receiver.url,
        }
        return "backup", data

    async def _job(
        self,
        session: aiohttp.ClientSession,
        service: ServiceProcess,
        receiver: Receiver,
        request: tuple[str, dict[str, Any]],
    ) -> dict[str, Any]:
        """Send an event, show its progress, take its signed completion; the completion's data."""
        operation, data = request
        job = await send_event(session, service.url, operation, data)
        self.job_ids.add(job["job_id"])
        say(f"   202 accepted, on disk: job {job['job_id']}")
        await show_progress(session, f"{service.url}/jobs/{job['job_id']}/events")
        return await self._completion(service, receiver, operation, job["job_id"])

    async def _completion(
        self, service: ServiceProcess, receiver: Receiver, operation: str, job_id: str
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(WEBHOOK_SECONDS):
                event = await receiver.event_of(job_id)
        except TimeoutError:
            service.check_alive()
            raise DemoFailed(f"no webhook arrived within {WEBHOOK_SECONDS:.0f} s of the job's end") from None
        say(f"   {event['type']} arrived by webhook; webhook-signature and x-flexdb-signature fit its bytes")
        if event["type"] != f"{operation}.completed":
            raise DemoFailed(f"{event['type']}: {json.dumps(event['data'].get('error'), ensure_ascii=False)}")
        result: dict[str, Any] = event["data"]
        return result

    async def _compare(self) -> Compared:
        try:
            compared = await asyncio.to_thread(self.source.compare)
        except Differs as difference:
            if await asyncio.to_thread(self.source.written_meanwhile):
                raise DemoFailed(
                    f"{difference}. Your database was written to meanwhile, and a backup shows one moment: "
                    "run the demo while nobody writes to see the two compared."
                ) from difference
            raise DemoFailed(f"the restored database is not the same: {difference}") from difference
        for table, rows in compared.tables.items():
            say(f"   {table:<24} {rows:>12,} rows, identical")
        say(f"   {'structure':<24} {compared.schema_objects:>12,} parts, identical")
        return compared

    async def _flip_a_byte(
        self, session: aiohttp.ClientSession, service: ServiceProcess, backup: dict[str, Any], folder: Path
    ) -> None:
        stored = folder / backup["files"][0]["name"]
        flip_byte(stored, stored.stat().st_size // 2)
        body = {"backup_id": backup["backup_id"], "level": 1}
        headers = {"Prefer": f"wait={WEBHOOK_SECONDS:.0f}"}
        async with session.post(f"{service.url}/hooks/verification", json=body, headers=headers) as response:
            event = await response.json(content_type=None)
        code = event.get("data", {}).get("error", {}).get("code")
        if event.get("type") != "verification.failed" or code != "artefact_damaged":
            raise DemoFailed(f"a flipped byte went unnoticed: {event.get('type')} {code}")
        say(f"   verification.failed, {code}: a backup is completed only while its bytes are what was written")

    async def _ingest(self, session: aiohttp.ClientSession, service: ServiceProcess, receiver: Receiver) -> None:
        async with customer_api() as source:
            step(7, f"the customers of an API are taken in: POST /api/ingest, from {source}")
            collection = f"{service.url}/api/{COLLECTION}"
            await self._take_in(session, service, receiver, source)
            page = await page_of(session, collection)
            first, last = page["data"][0]["customer_id"], page["data"][-1]["customer_id"]
            say(f"   GET /api/{COLLECTION}?page=1&limit={PAGE}: {first} to {last}, {page['total']} in all")
            count = await compare_customers(session, source, collection)
            say(f"   {count} customers compared with the source, field by field, all identical")
            step(8, "and once more: what is the same is not written again")
            again = await self._take_in(session, service, receiver, source)
            if again["inserted"] or again["updated"]:
                raise DemoFailed(f"{again['inserted']} were inserted and {again['updated']} updated the second time")

    async def _take_in(
        self, session: aiohttp.ClientSession, service: ServiceProcess, receiver: Receiver, source: str
    ) -> dict[str, Any]:
        """Ingest, show answer and completion; the completion's data."""
        body = {"source": source, "collection": COLLECTION, "callback_url": receiver.url}
        answer, job_id = await post_ingest(session, service.url, body)
        say(f"   200 {json.dumps(answer)}")
        data = await self._completion(service, receiver, "ingest", job_id)
        counts = ", ".join(f"{data[name]} {name}" for name in ("inserted", "updated", "unchanged", "rejected"))
        say(f"   {counts}, from {data['pages']} pages in {data['seconds']:.2f} s")
        return data

    async def clean(self) -> None:
        """End the service and the receiver, drop what was made on the server."""
        self.stop.set()
        code = await self.service.stop() if self.service else None
        if self.receiver is not None:
            await self.receiver.stop()
        await asyncio.to_thread(self.source.clean, self.job_ids)
        if code is not None:
            say(f"\nThe service was stopped with SIGTERM and ended with exit code {code}.")
        if code not in (None, 0):
            raise DemoFailed(f"the service ended with exit code {code} when asked to stop")


def step(number: int, what: str) -> None:
    say(f"\n{number}. {what}")


async def send_event(session: aiohttp.ClientSession, url: str, operation: str, data: dict[str, Any]) -> dict[str, Any]:
    """POST a CloudEvent; the acceptance."""
    event = {
        "specversion": "1.0",
        "id": f"demo-{operation}-{time.time_ns()}",
        "source": "/demo",
        "type": f"{operation}.requested",
        "data": data,
    }
    body = json.dumps(event).encode()
    headers = {"Content-Type": "application/cloudevents+json"}
    async with session.post(f"{url}/events", data=body, headers=headers) as response:
        text = await response.text()
        if response.status != 202:
            raise DemoFailed(f"the service answered {response.status} to {event['type']}: {text}")
    accepted: dict[str, Any] = json.loads(text)
    return accepted


async def show_progress(session: aiohttp.ClientSession, url: str) -> None:
    """Follow a job's server-sent events until the service closes them after the last."""
    live = sys.stdout.isatty()
    timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
    seen = EventStream()
    async with session.get(url, timeout=timeout, headers={"Accept": "text/event-stream"}) as response:
        async for chunk in response.content.iter_any():
            for message in seen.feed(chunk):
                line = progress_line(message.event, json.loads(message.data))
                sys.stdout.write(f"\r\033[K   {line}" if live else f"   {line}\n")
                sys.stdout.flush()
    if live:
        say()


def progress_line(kind: str, event: dict[str, Any]) -> str:
    progress = event["data"].get("progress")
    if not progress:
        return kind
    percent = f" {progress['percent']:.0f} %" if progress.get("percent") is not None else ""
    return f"{kind}: {progress['stage']}{percent} ({progress['done']:,} {progress['unit']})"


def flip_byte(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x01]))


def summary(
    backup: dict[str, Any], restore: dict[str, Any], compared: Compared, manifest: dict[str, Any], path: Path
) -> None:
    """What happened, in figures."""
    by_hand = manifest["restore_by_hand"]
    rows = {
        "database": f"{backup['engine']} {backup['server_version']}, {len(compared.tables)} tables",
        "rows": f"{compared.rows:,} compared one by one, all identical",
        "bytes": f"{backup['raw_bytes']:,} dumped, {backup['bytes']:,} stored",
        "backup": f"{backup['seconds']:.2f} s, proven on level {backup['level']}, job {backup['job_id']}",
        "restore": f"{restore['seconds']:.2f} s, job {restore['job_id']}",
        "sha256": backup["sha256"],
        "manifest": str(path),
        "by hand": by_hand[0],
    }
    say("\n" + "\n".join(f"   {name:<10} {value}" for name, value in rows.items()))
    say("".join(f"   {'':<10} {line}\n" for line in by_hand[1:]) + "\nIt works.")


async def run(demo: Demo) -> None:
    """Run it under a time limit; on Ctrl-C or SIGTERM everything it started ends with it."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            await demo.run()
    except TimeoutError:
        raise DemoFailed(f"not done after {LIMIT_SECONDS:.0f} s") from None
    finally:
        await asyncio.shield(demo.clean())


def source_of(url: str | None, folder: Path) -> Any:
    if not url:
        return SQLiteShop(folder)
    if not url.startswith(("postgresql://", "postgres://")):
        raise DemoFailed("DATABASE_URL must be postgresql://…; leave it out for a shop in SQLite")
    from examples.shopdemo.postgres import PostgresDatabase

    return PostgresDatabase(url)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--keep", action="store_true", help="keep the temporary folder, to look around")
    keep = arguments.parse_args().keep
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="flexdb-demo-"))
    say("An event becomes a proven backup and a restored database.")
    try:
        asyncio.run(run(Demo(source_of(os.environ.get("DATABASE_URL"), folder), folder)))
    except (KeyboardInterrupt, asyncio.CancelledError, Interrupted):
        say("\nInterrupted; everything the demo started has ended.")
        return 130
    except Exception as error:  # noqa: BLE001  a program's outermost door: a sentence, an exit code
        say(f"\nThe demo failed: {reason(error)}")
        return 1
    finally:
        say(f"Kept: {folder}") if keep else shutil.rmtree(folder)
    say(f"Done in {time.monotonic() - began:.1f} s; nothing is left behind.")
    return 0


def reason(error: Exception) -> str:
    """A sentence for the user; what nobody foresaw keeps its traceback."""
    if isinstance(error, DemoFailed | ServiceDied | BadSignature | NotTakenIn | OSError | aiohttp.ClientError):
        return str(error) or type(error).__name__
    if type(error).__module__.startswith("psycopg2"):
        return f"the server of DATABASE_URL says: {str(error).strip()}"
    return "".join(traceback.format_exception(error))


if __name__ == "__main__":
    sys.exit(main())
