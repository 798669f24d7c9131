"""MongoDB's messages as bytes: OP_MSG, and OP_QUERY for the first handshake of a driver.

https://github.com/mongodb/specifications/blob/master/source/message/OP_MSG.md
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import bson

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
MORE_TO_COME, EXHAUST_ALLOWED = 1 << 1, 1 << 16
_HEADER = struct.Struct("<iiii")
_LENGTH = struct.Struct("<i")
_FLAGS = struct.Struct("<I")
_REPLY_FIELDS = struct.Struct("<iqii")


@dataclass(slots=True)
class Request:
    """One command. `documents` are those that came beside its body, still encoded."""

    number: int
    opcode: int
    flags: int
    body: dict[str, Any]
    documents: list[memoryview] = field(default_factory=list)

    @property
    def exhausting(self) -> bool:
        """The driver takes several replies to this one request."""
        return bool(self.flags & EXHAUST_ALLOWED)

    @property
    def silent(self) -> bool:
        """The driver wants no reply."""
        return bool(self.flags & MORE_TO_COME)


class Connection:
    """The server's end of one connection."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._buffer = bytearray(1 << 20)
        self._numbers = 0

    def receive(self) -> Request | None:
        """The next command, whose documents stay valid until the next call; None when the peer has gone."""
        head = self._exactly(_HEADER.size)
        if head is None:
            return None
        length, number, _, opcode = _HEADER.unpack(head)
        data = self._exactly(length - _HEADER.size)
        if data is None:
            return None
        return _query(number, data) if opcode == OP_QUERY else _message(number, data)

    def reply(self, request: Request, *parts: bytes, more: bool = False) -> None:
        """Answer with the document whose bytes are `parts`; nothing is copied together."""
        size = sum(map(len, parts))
        self._numbers += 1
        if request.opcode == OP_QUERY:
            front = _REPLY_FIELDS.pack(8, 0, 0, 1)
        else:
            front = _FLAGS.pack(MORE_TO_COME if more else 0) + b"\0"
        opcode = OP_REPLY if request.opcode == OP_QUERY else OP_MSG
        head = _HEADER.pack(_HEADER.size + len(front) + size, self._numbers, request.number, opcode)
        self._send([head + front, *parts])

    def _send(self, parts: Sequence[bytes]) -> None:
        sent = self._peer.sendmsg(parts)
        for part in parts:
            if sent < len(part):
                self._peer.sendall(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    def _exactly(self, size: int) -> memoryview | None:
        if size > len(self._buffer):
            self._buffer = bytearray(size)
        view = memoryview(self._buffer)[:size]
        got = 0
        while got < size:
            received = self._peer.recv_into(view[got:])
            if not received:
                return None
            got += received
        return view


def _message(number: int, data: memoryview) -> Request:
    (flags,) = _FLAGS.unpack_from(data)
    request = Request(number, OP_MSG, flags, {})
    position = _FLAGS.size
    while position < len(data):
        kind = data[position]
        (size,) = _LENGTH.unpack_from(data, position + 1)
        section = data[position + 1 : position + 1 + size]
        if kind == 0:
            request.body = bson.decode(section)
        else:
            request.documents = _sequence(section)
        position += 1 + size
    return request


def _sequence(section: memoryview) -> list[memoryview]:
    name_end = section[4:68].tobytes().index(b"\0") + 5  # names of sequences are short: `documents`, `updates`
    return list(split(section[name_end:]))


def split(data: memoryview) -> list[memoryview]:
    """Documents that follow each other, by their lengths; the last is left out when it is not whole."""
    found, position, end = [], 0, len(data)
    while position + _LENGTH.size <= end:
        (size,) = _LENGTH.unpack_from(data, position)
        if position + size > end:
            break
        found.append(data[position : position + size])
        position += size
    return found


def _query(number: int, data: memoryview) -> Request:
    name_end = data[4:300].tobytes().index(b"\0") + 5
    return Request(number, OP_QUERY, 0, bson.decode(data[name_end + 8 :]))
