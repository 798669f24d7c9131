"""Words of the command line as the data of an event."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from service.cli.exits import CommandError


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and Infinity are Python's, not JSON's


def parse_value(text: str) -> Any:
    """JSON when it is JSON (`3`, `true`, `["a"]`, `"3"`), else the text itself."""
    try:
        return json.loads(text, parse_constant=_not_json)
    except ValueError:
        return text


def parse_fields(words: Iterable[str], start: dict[str, Any] | None = None) -> dict[str, Any]:
    """`key=value` words as one object, added to `start`; dots in a key make nested objects.

    Raises `CommandError` for a word without `=`, an empty key, a key given twice, or one that is both a value
    and an object.
    """
    data = dict(start or {})
    given: set[str] = set()
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not all(key.split(".")):
            raise CommandError(f"{word!r} is not key=value.", "Write for example connection=shop verify=3.")
        if key in given:
            raise CommandError(f"{key!r} is given twice.", 'Give a list as JSON: include=["orders","items"].')
        given.add(key)
        _put(data, key, parse_value(text))
    return data


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    place = data
    for depth, part in enumerate(outer):
        inner = place.get(part, {})
        if not isinstance(inner, dict):
            raise CommandError(f"{'.'.join(outer[: depth + 1])!r} is a value and cannot hold {key!r}.")
        place[part] = dict(inner)
        place = place[part]
    if isinstance(place.get(last), dict) and not isinstance(value, dict):
        raise CommandError(f"{key!r} is an object and a value at once.")
    place[last] = value


def read_data(source: str | None) -> dict[str, Any]:
    """The JSON object in a file, or on standard input for `-`; empty for None."""
    if source is None:
        return {}
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        data = json.loads(text, parse_constant=_not_json)
    except OSError as error:
        raise CommandError(f"{source} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise CommandError(f"{source} does not hold JSON ({error}).") from error
    if not isinstance(data, dict):
        raise CommandError(f"{source} must hold one JSON object, the event's data.")
    return data
