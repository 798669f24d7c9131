"""Log lines: structlog, constant event names, JSON on standard error, no secrets."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import structlog
from pydantic_core import to_json


def _as_json(line: dict[str, Any], **_: Any) -> bytes:
    return to_json(line, fallback=repr)


def _json_lines() -> Callable[..., Any]:
    return structlog.BytesLoggerFactory(sys.stderr.buffer)


def configure(level: str = "info", style: str = "json") -> None:
    """Set up structlog and the standard library's loggers for this process.

    Our own lines go straight to standard error, each one write: by way of the standard library a line costs
    three times as much.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    ours: structlog.typing.Processor
    foreign: structlog.typing.Processor
    if style == "json":
        shared.append(structlog.processors.format_exc_info)
        ours, foreign = structlog.processors.JSONRenderer(serializer=_as_json), structlog.processors.JSONRenderer()
    else:
        ours = foreign = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[*shared, ours],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=(
            structlog.BytesLoggerFactory(sys.stderr.buffer)
            if style == "json"
            else structlog.WriteLoggerFactory(sys.stderr)
        ),
        cache_logger_on_first_use=True,
    )
    _configure_foreign(level, shared, foreign)


def _configure_foreign(
    level: str, shared: list[structlog.typing.Processor], renderer: structlog.typing.Processor
) -> None:
    """Lines of libraries look like ours."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # URLs of requests may hold tokens
    for chatty in ("aio_pika", "aiormq"):  # their words repeat ours at every attempt, with addresses in them
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
