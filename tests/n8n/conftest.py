"""One n8n for all tests here, and a FlexDB for each that has connections of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.service_process import RunningService
from tests.acceptance.webhook_receiver import receiving
from tests.n8n.pair import Pair, make_credentials, sqlite_shop
from tests.n8n.process import RunningN8n
from tests.rabbitmq import own_rabbitmq
from tests.servers import ServerMissingError, missing
from tools.n8n_install import Installed, InstallError, install

MakePair = Callable[..., Pair]


@pytest.fixture(scope="session")
def installed_n8n() -> Installed:
    """The pinned n8n, fetched into its cache unless it is there."""
    try:
        return install()
    except InstallError as error:
        missing(str(error))
        raise


@dataclass(frozen=True, slots=True)
class Servers:
    """An n8n with an owner, an API key and all credentials the shipped workflows name, and the RabbitMQ it uses."""

    n8n: RunningN8n
    rabbitmq_url: str


@contextmanager
def own_servers(folder: Path, installed: Installed) -> Iterator[Servers]:
    """Both started now: the RabbitMQ is of their own, so that exchanges and queues may have the names shipped."""
    with own_rabbitmq() as broker:
        n8n = RunningN8n(folder, installed)
        try:
            make_credentials(n8n.start().own(), broker.url)
            yield Servers(n8n, broker.url)
        finally:
            n8n.close()


@pytest.fixture(scope="session")
def servers(installed_n8n: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Those that `python -m tests.n8n.serve` left running and FLEXDB_TEST_N8N names by its file, else own ones."""
    if state := os.environ.get("FLEXDB_TEST_N8N"):
        found = json.loads(Path(state).read_text())
        yield Servers(RunningN8n.attached(found["n8n"], installed_n8n), found["rabbitmq_url"])
        return
    try:
        with own_servers(tmp_path_factory.mktemp("n8n"), installed_n8n) as started:
            yield started
    except ServerMissingError as error:
        missing(str(error))


@pytest.fixture(scope="session")
def n8n(servers: Servers) -> RunningN8n:
    return servers.n8n


@pytest.fixture(scope="session")
def broker_url(servers: Servers) -> str:
    """The RabbitMQ that n8n's credential `FlexDB RabbitMQ` leads to: give it to FlexDB as FLEXDB_AMQP_URL."""
    return servers.rabbitmq_url


@pytest.fixture
def make_pair(n8n: RunningN8n, tmp_path: Path) -> Iterator[MakePair]:
    """`make_pair(connections, **settings of FlexDB)`: a FlexDB beside n8n; with `shop` and `crm` if not told."""
    with ExitStack() as stack:

        def make(connections: dict[str, str] | None = None, **settings: str) -> Pair:
            if connections is None:
                connections = {name: sqlite_shop(tmp_path / "databases", name) for name in ("shop", "crm")}
            flexdb = RunningService(tmp_path / "flexdb", connections, settings)
            stack.callback(flexdb.close)
            pair = Pair(n8n, flexdb.start(), stack.enter_context(receiving()))
            stack.callback(pair.forget)
            return pair

        yield make


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    """n8n beside a FlexDB with the SQLite connections `shop` and `crm`."""
    return make_pair()
