"""A Redis of a test's own, that it may stop, pause and start again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import ServerMissingError

READY_SECONDS = 10.0


class OwnRedis:
    """Keeps nothing on disk: what it held is gone when it stops."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        if self._process is not None:
            return
        self._process = subprocess.Popen(
            [self._program, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
            cwd=self._folder,
        )
        until = time.monotonic() + READY_SECONDS
        while not self._answers():
            if time.monotonic() > until:
                raise ServerMissingError("redis-server did not start")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It accepts connections and says nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def own_redis(folder: Path) -> Iterator[OwnRedis]:
    """Started. Raises `ServerMissingError` where no redis-server is installed."""
    program = shutil.which("redis-server")
    if program is None:
        raise ServerMissingError("redis-server is not installed")
    server = OwnRedis(program, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
