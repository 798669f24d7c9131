"""Server-sent events from bytes (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `id` is the last id the stream gave, what `Last-Event-ID` wants."""

    event: str
    data: str
    id: str


class EventStream:
    """Feed it chunks as they come, get whole messages; lines may be of any length and cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._event = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, chunk: bytes) -> Iterator[Message]:
        self._rest += chunk
        while found := _LINE_END.search(self._rest):
            if found.group() == b"\r" and found.end() == len(self._rest):
                return  # its line feed may come with the next chunk
            line, self._rest = self._rest[: found.start()], self._rest[found.end() :]
            if (message := self._take(line.decode("utf-8", "replace"))) is not None:
                yield message

    def _take(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Message | None:
        data, event = self._data, self._event
        self._data, self._event = [], ""
        return Message(event or "message", "\n".join(data), self._id) if data else None
