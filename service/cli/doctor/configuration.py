"""The doctor's look at settings: what they are, which cannot work, which nobody reads."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from pydantic import SecretStr

from service.cli.client import shown_url
from service.cli.doctor.finding import Finding, fails, ok, warning
from service.ledger.records import InvalidLedgerURL
from service.ledger.registry import ledger_file
from service.settings import Settings, unknown_variables

AREA = "settings"
STARS = "***"
JWT_SECRET_BYTES = 32
WEBHOOK_SECRET_BYTES = (24, 64)


def settings_shown(settings: Settings) -> dict[str, Any]:
    """Every setting by the variable that makes it; secrets as `***`, userinfo of URLs left out."""
    shown: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        variable = f"FLEXDB_{name.upper()}"
        if isinstance(value, dict):
            shown |= {f"{variable}__{key.upper()}": _shown(inner) for key, inner in sorted(value.items())}
        else:
            shown[variable] = _shown(value)
    return shown


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return STARS
    if isinstance(value, tuple):
        return ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    if value is None or isinstance(value, int | float):
        return value
    return shown_url(str(value)) if "://" in str(value) else str(value)


def examine_settings(settings: Settings, environ: dict[str, str] | None = None) -> list[Finding]:
    """What is wrong with the settings themselves; no I/O."""
    found = [
        warning(AREA, name, "is set, and no setting reads it", "Correct the name; .env.example lists them all.")
        for name in unknown_variables(environ)
    ]
    found += [
        *_listening(settings),
        *_leases(settings),
        *_scratch(settings),
        *_signing(settings),
        *_sources(settings),
    ]
    found += _ledger(settings)
    return found or [ok(AREA, "environment", "every FLEXDB_ variable is known, and they fit together")]


def _ledger(settings: Settings) -> list[Finding]:
    url = settings.ledger_url.get_secret_value() if settings.ledger_url else None
    try:
        ledger_file(url, settings.home)
    except InvalidLedgerURL as error:
        return [fails(AREA, "FLEXDB_LEDGER_URL", "names no ledger", str(error))]
    return []


def _listening(settings: Settings) -> list[Finding]:
    if settings.listens_on_loopback or settings.token is not None:
        return []
    detail = f"is {settings.host}, not loopback, and there is no FLEXDB_TOKEN: the service refuses to start"
    return [fails(AREA, "FLEXDB_HOST", detail, "Set FLEXDB_TOKEN to a long random text, or listen on 127.0.0.1.")]


def _leases(settings: Settings) -> list[Finding]:
    if settings.heartbeat_seconds * 2 <= settings.lease_seconds:
        return []
    lease = f"{settings.lease_seconds:g} s"
    detail = f"is {settings.heartbeat_seconds:g} s: with leases of {lease} one late renewal loses a job"
    return [fails(AREA, "FLEXDB_HEARTBEAT_SECONDS", detail, "Make it a third of FLEXDB_LEASE_SECONDS.")]


def _scratch(settings: Settings) -> list[Finding]:
    found = []
    for name, server in sorted(settings.scratch.items()):
        for unknown in sorted({name, server} - settings.connections.keys()):
            found.append(
                fails(
                    AREA,
                    f"FLEXDB_SCRATCH__{name.upper()}",
                    f"names the connection {unknown!r}, which is not configured",
                    f"Set FLEXDB_CONNECTIONS__{unknown.upper()}, or correct the name.",
                )
            )
    return found


def _signing(settings: Settings) -> list[Finding]:
    found = []
    secrets = settings.webhook_secret.get_secret_value().split() if settings.webhook_secret else []
    if any(not _is_webhook_secret(secret) for secret in secrets):
        found.append(
            fails(
                AREA,
                "FLEXDB_WEBHOOK_SECRET",
                "is not whsec_ and 24 to 64 bytes in base64",
                "Make one: echo whsec_$(head -c 32 /dev/urandom | base64)",
            )
        )
    jwt = settings.webhook_jwt_secret
    if jwt is not None and len(jwt.get_secret_value().encode()) < JWT_SECRET_BYTES:
        found.append(
            fails(
                AREA,
                "FLEXDB_WEBHOOK_JWT_SECRET",
                "is shorter than 32 bytes",
                "Make one: openssl rand -base64 48",
            )
        )
    return found


def _sources(settings: Settings) -> list[Finding]:
    found = []
    for name, secret in sorted(settings.sources.items()):
        scheme, _, secrets = secret.get_secret_value().partition(":")
        good = scheme == "standard" and secrets.split() and all(_is_webhook_secret(one) for one in secrets.split())
        if not good:
            variable = f"FLEXDB_SOURCES__{name.upper()}"
            mend = "Write standard:whsec_… with 24 to 64 bytes in base64 after whsec_."
            found.append(fails(AREA, variable, "is not a signature scheme and its secrets", mend))
    return found


def _is_webhook_secret(text: str) -> bool:
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return False
    low, high = WEBHOOK_SECRET_BYTES
    return text.startswith("whsec_") and low <= len(key) <= high
