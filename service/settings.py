"""Every setting: its name, type, default and help. `.env.example` mirrors this file and a test compares them."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")
"""What connections, stores, sources, subscriptions and schedules may be called."""


class Settings(BaseSettings):
    """Read from the environment and, where present, `.env` in the working folder. Empty means unset."""

    model_config = SettingsConfigDict(
        env_prefix="FLEXDB_",
        env_nested_delimiter="__",
        env_nested_max_split=1,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # what is wrong may be a secret
    )

    home: Path = Field(Path("./var"), description="Folder for everything embedded: ledger, storage, token, work files.")
    host: str = Field("127.0.0.1", description="Address to listen on; anything but loopback needs FLEXDB_TOKEN.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    role: str = Field(
        "all",
        pattern="^(all|intake|worker|relay)$",
        description="What this process does: all; intake takes from RabbitMQ and schedules; worker; relay delivers.",
    )
    token: SecretStr | None = Field(None, description="Bearer token callers must show; made at first start when unset.")
    ledger_url: SecretStr | None = Field(
        None,
        description="Where jobs are kept: sqlite:///path or postgresql://…; default a file in FLEXDB_HOME.",
    )
    amqp_url: SecretStr | None = Field(
        None, description="RabbitMQ, amqp://user:password@host:5672/vhost; without it there is none."
    )
    amqp_name: str = Field(
        "flexdb",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
        description="What the names of exchanges and queues in RabbitMQ begin with.",
    )
    amqp_prefetch: int = Field(300, ge=1, le=2000, description="Messages taken in at once, all in one commit.")
    amqp_credentials: str = Field(
        "broker",
        pattern="^(broker|message)$",
        description="Who may ask by RabbitMQ: broker, whoever may publish there; message, who shows a token or signs.",
    )
    storage_url: SecretStr | None = Field(
        None, description="Where artefacts are kept: a folder, or an object store's URL; default FLEXDB_HOME/storage."
    )
    stores: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="Further stores by name, FLEXDB_STORES__NAME=URL; events choose with `storage`.",
    )
    connections: dict[str, SecretStr] = Field(
        default_factory=dict, description="Databases by name, FLEXDB_CONNECTIONS__NAME=URL."
    )
    scratch: dict[str, str] = Field(
        default_factory=dict,
        description="FLEXDB_SCRATCH__NAME=connection: on its server level 3 makes the scratch database of NAME.",
    )
    sources: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="Who may sign what comes in, FLEXDB_SOURCES__NAME=standard:whsec_… (several: separated by spaces).",
    )
    feeds: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="Sources of records, FLEXDB_FEEDS__NAME=URL, or JSON with url, headers and what a source takes.",
    )
    collections: Path | None = Field(
        None, description="A JSON file that declares collections, or a folder of such; callers cannot change these."
    )
    records_connection: str | None = Field(
        None,
        description="Where the ready collections are; default the first PostgreSQL connection by name, else the first.",
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis, redis://host:6379/0: a cache of dear calculations for all replicas, nothing else."
    )
    calculation_cache: bool = Field(True, description="Whether results of dear calculations are kept for a while.")
    calculation_processes: int = Field(2, ge=1, le=64, description="Processes for dear calculations.")
    calculation_seconds: float = Field(30.0, gt=0, le=3600, description="Seconds one calculation may take.")
    calculation_megabytes: int = Field(1024, ge=64, description="Memory one calculation may take.")
    calculation_digits: int = Field(2_000_000, ge=20, description="Digits a calculation's result may have.")
    calculation_history: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Connections that keep the history of calculations that name none, separated by commas."
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="Signs what goes out: whsec_…, several separated by spaces; made at first start when unset.",
    )
    webhook_jwt_secret: SecretStr | None = Field(
        None, description="When set, what goes out also carries an HS256 JWT bearer made with it (32 bytes or more)."
    )
    webhook_schedule: Annotated[tuple[float, ...], NoDecode] = Field(
        (5, 30, 120, 600, 3600, 10800, 21600, 43200),
        description="Seconds before each further try of a delivery to a subscription or RabbitMQ, separated by commas.",
    )
    webhook_timeout: float = Field(15.0, gt=0, le=300, description="Seconds one delivery attempt may take.")
    callback_hours: float = Field(24.0, gt=0, description="How long a callback is tried before it is abandoned.")
    outgoing_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Hosts and networks that outgoing calls may reach although private, separated by commas."
    )
    max_body_bytes: int = Field(16 * 1024 * 1024, ge=1024, description="Largest request body taken.")
    queue_limit: int = Field(100_000, ge=1, description="Open jobs above which new events are answered 429.")
    concurrency: int = Field(4, ge=1, le=256, description="Jobs this process runs at once.")
    max_attempts: int = Field(3, ge=1, le=100, description="Tries of a job whose error may pass.")
    retry_base_seconds: float = Field(2.0, gt=0, description="Wait before the second attempt; doubles, with jitter.")
    lease_seconds: float = Field(30.0, gt=0, description="How long a worker that went silent keeps its jobs.")
    heartbeat_seconds: float = Field(10.0, gt=0, description="How often leases are renewed.")
    drain_seconds: float = Field(30.0, ge=0, description="How long running jobs may go on after SIGTERM.")
    keep_jobs: float = Field(90.0, gt=0, description="Days ended jobs, their history and deliveries are kept.")
    replay_window: float = Field(300.0, gt=0, description="Seconds a signed request's timestamp may be off.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Lowest level that is logged.")
    log_format: str = Field("json", pattern="^(json|console)$", description="Log lines as JSON or for people.")
    tool_path: str | None = Field(
        None, description="Folders searched for database client programs before all others, separated as in PATH."
    )
    url: str | None = Field(None, description="Where the command line finds the service; default http://HOST:PORT.")

    @field_validator("webhook_schedule", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        return tuple(float(part) for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("outgoing_allow", "calculation_history", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        words = value.split(",") if isinstance(value, str) else value
        return tuple(word.strip().lower() for word in words if word.strip())

    @field_validator("connections", "stores", "scratch", "sources", "feeds", mode="after")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not NAME.match(name):
                raise ValueError(
                    f"the name {name!r} may hold only a-z, 0-9, _ and -, and begins with none of the last two"
                )
        return value

    @property
    def listens_on_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def service_url(self) -> str:
        """Where the command line finds the service."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104  compared, not bound
        return self.url or f"http://{host}:{self.port}"


def unknown_variables(environ: dict[str, str] | None = None) -> list[str]:
    """FLEXDB_ variables that no setting reads, to be warned of: most are typing errors."""
    known = {f"FLEXDB_{name.upper()}" for name in Settings.model_fields}
    nested = tuple(f"FLEXDB_{name.upper()}__" for name in ("connections", "stores", "scratch", "sources", "feeds"))
    return sorted(
        name
        for name in (environ if environ is not None else os.environ)
        if name.upper().startswith("FLEXDB_")
        and name.upper() not in known
        and not name.upper().startswith((*nested, "FLEXDB_TEST_"))
    )
