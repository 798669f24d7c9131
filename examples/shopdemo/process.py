"""The service as a process of its own, with a folder of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import aiohttp

READY_SECONDS = 30.0
STOP_SECONDS = 30.0
LOG_LINES_SHOWN = 15


class ServiceDied(Exception):
    """It did not start, or ended before it was asked to."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServiceProcess:
    """`flexdb serve` on a free port of loopback; nothing of the caller's own FLEXDB_ settings reaches it."""

    def __init__(self, folder: Path, connection_url: str, records_url: str) -> None:
        """`connection_url` is the connection `shop`, `records_url` that of the ready collections."""
        self.home = folder / "home"
        self.log = folder / "service.log"
        self._folder = folder
        self._connection_url = connection_url
        self._records_url = records_url
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it takes events. Raises `ServiceDied`."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEXDB_")}
        environment.pop("DATABASE_URL", None)
        environment |= {
            "FLEXDB_HOME": str(self.home),
            "FLEXDB_CONNECTIONS__SHOP": self._connection_url,  # by the environment: never in a command line
            "FLEXDB_CONNECTIONS__RECORDS": self._records_url,
            "FLEXDB_RECORDS_CONNECTION": "records",
            "FLEXDB_OUTGOING_ALLOW": "127.0.0.1",  # an ingest reaches public addresses only, and what is named here
            "FLEXDB_DRAIN_SECONDS": "5",
        }
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("flexdb")), "serve", "--port", str(self._port),
                cwd=self._folder, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then stops the service in order
            )  # fmt: skip
        await self._until_ready()

    async def _until_ready(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            try:
                async with asyncio.timeout(READY_SECONDS):
                    while not await self._is_ready(session):  # noqa: ASYNC110  another process has no Event
                        await asyncio.sleep(0.05)
            except TimeoutError:
                raise ServiceDied(f"the service was not ready after {READY_SECONDS:.0f} s{self.last_words()}") from None

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        self.check_alive()
        try:
            async with session.get(self.url + "/readyz") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def check_alive(self) -> None:
        """Raises `ServiceDied`."""
        if self._process is not None and self._process.returncode is not None:
            raise ServiceDied(f"the service ended with exit code {self._process.returncode}{self.last_words()}")

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return ":\n  " + "\n  ".join(lines) if lines else ""

    def secret(self, name: str) -> str:
        """`token` or `webhook_secret`, made by the first start in files of mode 0600."""
        return (self.home / name).read_text().strip()

    async def stop(self) -> int | None:
        """SIGTERM, and SIGKILL should that not help; the exit code, None when it never ran."""
        process = self._process
        if process is None:
            return None
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await process.wait()
        except TimeoutError:
            process.kill()
            return await process.wait()
