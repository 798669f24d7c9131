"""Works out dear calculations one by one, in a process that may be killed: `python worker.py PATHS MEGABYTES`.

A program of its own, on gmpy2 and the standard library alone and quick to start. A message is its length in eight
bytes, big-endian, and that many bytes of ASCII, fields separated by newlines:

    in    seconds, digits, operation, arguments …
    out   `ok`, `exact` or `rounded`, result; or `too_large`; or `memory`

It ends with its input, which is when the service ends, and by its limit on processor time if it is busy then. GMP ends
the process with SIGABRT when it gets no memory.
"""

import importlib
import math
import os
import resource
import sys
import time

HEAD = 8
ROOM_SECONDS = 1
"""Processor time beyond the seconds a calculation may take, before the system ends the process."""


def limit_memory(megabytes: int) -> None:
    """So much on top of what the interpreter has already; no core files of numbers."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = 0
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123  pathlib is slow to import
            pages = int(file.read().split()[0])
    except OSError:
        pass  # not Linux: the interpreter's own share counts too
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + megabytes * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def limit_processor(seconds: float) -> None:
    """So much from now."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = math.ceil(time.process_time() + seconds) + ROOM_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard < 0 else min(wanted, hard), hard))


def received() -> bytes:
    """The next message; ends the process when there is none."""
    return exactly(int.from_bytes(exactly(HEAD), "big"))


def exactly(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(0, size)
        if not part:
            sys.exit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def send(*fields: str) -> None:
    body = "\n".join(fields).encode()
    message = memoryview(len(body).to_bytes(HEAD, "big") + body)
    while message:
        message = message[os.write(1, message) :]


def main() -> None:
    sys.path.extend(sys.argv[1].split(os.pathsep))
    exact = importlib.import_module("exact")
    limit_memory(int(sys.argv[2]))
    while True:
        seconds, digits, operation, *arguments = received().decode().split("\n")
        limit_processor(float(seconds))
        try:
            result, whole = exact.compute(operation, arguments, int(digits))
        except exact.TooLargeError:
            send("too_large")
        except MemoryError:
            send("memory")
        else:
            send("ok", "exact" if whole else "rounded", result)


if __name__ == "__main__":
    main()
