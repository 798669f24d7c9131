"""The files for containers name what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from service.ledger.registry import is_shared, ledger_file
from service.settings import Settings
from tools.n8n_install import wanted_version

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CLUSTER = yaml.safe_load((ROOT / "deploy" / "compose.cluster.yml").read_text())
N8N = yaml.safe_load((ROOT / "deploy" / "compose.n8n.yml").read_text())
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


@pytest.mark.parametrize("compose", [COMPOSE, CLUSTER, N8N])
def test_compose_sets_only_settings_that_exist(compose: Any) -> None:
    known = {f"FLEXDB_{name.upper()}" for name in Settings.model_fields}
    for name in compose["services"]["flexdb"]["environment"]:
        assert name.split("__")[0] in known, name


def test_replicas_of_a_cluster_share_what_they_must_and_keep_nothing_of_their_own() -> None:
    flexdb = CLUSTER["services"]["flexdb"]
    shared = {"TOKEN", "WEBHOOK_SECRET", "LEDGER_URL", "STORAGE_URL", "AMQP_URL"}
    assert {f"FLEXDB_{name}" for name in shared} <= set(flexdb["environment"])
    assert "volumes" not in flexdb
    url = flexdb["environment"]["FLEXDB_LEDGER_URL"].replace("${CLUSTER_PASSWORD:?set a password for the servers}", "x")
    assert is_shared(url) and ledger_file(url, Path("none")) is None
    assert all(port.startswith("127.0.0.1:") for port in flexdb["ports"])


def test_compose_publishes_the_service_on_this_machine_only_and_wants_a_token() -> None:
    flexdb = COMPOSE["services"]["flexdb"]
    assert flexdb["ports"] == ["127.0.0.1:8080:8080"]
    assert ":?" in flexdb["environment"]["FLEXDB_TOKEN"]


@pytest.mark.parametrize("compose", [COMPOSE, CLUSTER])
def test_compose_gives_the_service_longer_to_stop_than_it_drains(compose: Any) -> None:
    grace = compose["services"]["flexdb"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > Settings.model_fields["drain_seconds"].default


def test_volumes_and_build_files_of_compose_exist() -> None:
    for compose in (COMPOSE, CLUSTER):
        for service in compose["services"].values():
            assert {volume.partition(":")[0] for volume in service.get("volumes", ())} <= set(compose["volumes"])
    assert (ROOT / COMPOSE["services"]["flexdb"]["build"]["dockerfile"]).is_file()


def test_n8n_beside_the_service_is_the_tested_one_and_either_reaches_the_other() -> None:
    n8n, flexdb = N8N["services"]["n8n"], N8N["services"]["flexdb"]
    assert n8n["image"].endswith(f":{wanted_version()}")
    assert (
        urlsplit(n8n["environment"]["WEBHOOK_URL"]).hostname == "n8n" == flexdb["environment"]["FLEXDB_OUTGOING_ALLOW"]
    )
    assert all(port.startswith("127.0.0.1:") for port in n8n["ports"])
    for service in N8N["services"].values():
        named = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert named <= set(N8N["volumes"]) | set(COMPOSE["volumes"])


def test_the_image_copies_what_the_package_needs_and_runs_without_root() -> None:
    for copied in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in copied.split():
            assert (ROOT / name).exists(), name
    assert re.search(r"^USER flexdb$", DOCKERFILE, re.MULTILINE)
    assert 'CMD ["flexdb", "serve"]' in DOCKERFILE
