"""The RabbitMQ the suite runs against: one the environment names, else a node started here, gone with this process."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from engines.command import TETHER
from tests.servers import ServerMissingError

RABBITMQ_VARIABLE = "FLEXDB_TEST_AMQP_URL"
USUAL_RABBITMQ = "amqp://guest:guest@127.0.0.1:5672/"
DEBIAN = Path("/usr/lib/rabbitmq/lib")
READY_SECONDS = 60.0
STOP_SECONDS = 30.0
MAX_MESSAGE_BYTES = 1 << 20
"""Far below the default, so that a test can go over it."""
GREETING = b"AMQP\x00\x00\x09\x01"


def installed_rabbitmq() -> str:
    """URL of the server named by FLEXDB_TEST_AMQP_URL, or of the one on this machine.

    Raises `ServerMissingError` when it does not answer.
    """
    url = os.environ.get(RABBITMQ_VARIABLE) or USUAL_RABBITMQ
    parts = urlsplit(url)
    if not _answers(parts.hostname or "127.0.0.1", parts.port or 5672):
        raise ServerMissingError(f"no RabbitMQ answers at {parts.netloc.rpartition('@')[2]}")
    return url


@contextmanager
def some_rabbitmq() -> Iterator[None]:
    """See that `installed_rabbitmq` finds a server: where none answers, Debian's programs are started by hand.

    The variable is set meanwhile, so that processes of the test runner all use the one server.
    """
    try:
        installed_rabbitmq()
    except ServerMissingError:
        if os.environ.get(RABBITMQ_VARIABLE) or not _has_programs():
            yield  # the tests that need it say what is missing
            return
        with own_rabbitmq() as node:
            os.environ[RABBITMQ_VARIABLE] = node.url
            yield
        del os.environ[RABBITMQ_VARIABLE]
    else:
        yield


@contextmanager
def own_rabbitmq() -> Iterator[OwnRabbitMQ]:
    """A node of our own, started, that can be stopped and started again.

    Everything lies in one temporary folder. Ends with the context, and with this process however that ends.
    Raises `ServerMissingError` where its programs are not installed.
    """
    programs = max(DEBIAN.glob("rabbitmq_server-*/sbin"), default=None)
    epmd = shutil.which("epmd")
    if programs is None or epmd is None:
        raise ServerMissingError("the programs of RabbitMQ are not installed")
    home = Path(tempfile.mkdtemp(prefix="flexdb-rabbitmq-"))
    try:
        node = OwnRabbitMQ(home, programs / "rabbitmq-server", Path(epmd))
        try:
            node.start()
            yield node
        finally:
            node.end()
    finally:
        shutil.rmtree(home, ignore_errors=True)  # the node may still be writing its last words


class OwnRabbitMQ:
    """A RabbitMQ node on a free port of 127.0.0.1, with a port mapper that serves it alone."""

    def __init__(self, home: Path, server: Path, epmd: Path) -> None:
        self._home = home
        self._server = server
        self._epmd = epmd
        self._port, self._epmd_port, self._dist_port = free_ports(3)
        self._name = f"flexdb{secrets.token_hex(4)}@localhost"
        self._running = ExitStack()
        self._mapping = ExitStack()
        self._guard: subprocess.Popen[bytes] | None = None
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}/"
        self._configure()

    def _configure(self) -> None:
        (self._home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self._port}\n"
            f"max_message_size = {MAX_MESSAGE_BYTES}\n"
            "disk_free_limit.absolute = 1MB\n"
            "log.console = false\n"
        )
        (self._home / "enabled_plugins").write_text("[].\n")

    def start(self) -> None:
        """Returns when it answers; after `stop` on the same port and data."""
        if self._guard is not None:
            return
        if not _answers_at_all(self._epmd_port):
            # Started here, else Erlang would start one that outlives it all.
            mapper = [str(self._epmd), "-address", "127.0.0.1", "-port", str(self._epmd_port)]
            self._mapping.enter_context(_tied(self._home, "epmd", mapper, self._environment()))
            _until(lambda: _answers_at_all(self._epmd_port), "the port mapper", self._home / "epmd.log")
        command = [str(self._server)]
        self._guard = self._running.enter_context(_tied(self._home, "server", command, self._environment()))
        _until(lambda: _answers("127.0.0.1", self._port), "RabbitMQ", self._home / "server.log", self._guard)

    def stop(self, *, kill: bool = True) -> None:
        """At once, as in a crash (`kill`), or after it has closed its connections and queues. Data is kept.

        Of RabbitMQ 3.10, a quorum queue made within seconds of such a crash comes back unable to confirm anything.
        """
        if self._guard is None:
            return
        if not kill:
            os.killpg(self._guard.pid, signal.SIGTERM)  # its guard does not mind
            with suppress(subprocess.TimeoutExpired):
                self._guard.wait(STOP_SECONDS)
        self._running.close()
        self._guard = None
        _until(lambda: not _answers_at_all(self._port), "the end of RabbitMQ", self._home / "server.log")

    def freeze(self) -> None:
        """It keeps its connections and does nothing any more."""
        assert self._guard is not None
        os.killpg(self._guard.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._guard is not None
        os.killpg(self._guard.pid, signal.SIGCONT)

    def end(self) -> None:
        """Stop it for good, its port mapper as well."""
        self.stop()
        self._mapping.close()

    def _environment(self) -> dict[str, str]:
        home = str(self._home)
        return {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "HOME": home,
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": f"{home}/mnesia",
            "RABBITMQ_LOG_BASE": f"{home}/log",
            "RABBITMQ_PID_FILE": f"{home}/pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins",
            # Named, so that none of this machine's own configuration is read.
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
            "RABBITMQ_CONFIG_FILES": f"{home}/conf.d",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/advanced.config",
            "RABBITMQ_CONF_ENV_FILE": f"{home}/rabbitmq-env.conf",
        }


@contextmanager
def _tied(home: Path, name: str, command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program under the same guard that client tools run under: its whole process group ends with us."""
    held_by_guard, held_by_us = os.pipe()
    with (home / f"{name}.log").open("ab") as log:
        guard = subprocess.Popen(
            [sys.executable, "-S", "-E", "-I", str(TETHER), str(held_by_guard), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=home,
            pass_fds=(held_by_guard,),
            start_new_session=True,
        )
    os.close(held_by_guard)
    try:
        yield guard
    finally:
        with suppress(ProcessLookupError):
            os.killpg(guard.pid, signal.SIGKILL)
        os.close(held_by_us)
        guard.wait(timeout=10)


def _until(condition: Callable[[], bool], what: str, log: Path, guard: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        ended = guard is not None and guard.poll() is not None
        if ended or time.monotonic() > deadline:
            raise ServerMissingError(f"{what} did not come: {log.read_text(errors='replace')[-800:]}")
        time.sleep(0.05)


def _answers(host: str, port: int) -> bool:
    """Whether something there speaks AMQP 0-9-1; RabbitMQ listens as the last step of its start."""
    try:
        with socket.create_connection((host, port), timeout=5) as line:
            line.sendall(GREETING)
            return line.recv(1) == b"\x01"  # a method frame: connection.start
    except OSError:
        return False


def _answers_at_all(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except OSError:
        return False


def _has_programs() -> bool:
    return any(DEBIAN.glob("rabbitmq_server-*/sbin")) and shutil.which("epmd") is not None


def free_ports(number: int) -> list[int]:
    """Ports of loopback, no two the same, that nobody had a moment ago."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(number)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]
