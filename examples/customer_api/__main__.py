"""Serves the customer API on loopback until it is interrupted."""

from __future__ import annotations

import argparse
import sys

from aiohttp import web

from .customers import Customers  # relative: the package is run as `examples.customer_api`, tests import it otherwise
from .server import application


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.customer_api", description="A customer API to try with.")
    parser.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (%(default)s)")
    parser.add_argument("--count", type=int, help="how many customers there are; those of the file unless given")
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds each answer takes longer")
    asked = parser.parse_args()
    if asked.count is not None and not 0 <= asked.count <= 9_999_999:
        parser.error("--count is between 0 and 9999999")
    customers = Customers(asked.count)
    say(f"{len(customers):,} customers at http://127.0.0.1:{asked.port}/api/customers?page=1&limit=10")
    app = application(customers, latency=asked.latency / 1000)
    web.run_app(app, host="127.0.0.1", port=asked.port, access_log=None, print=None)
    return 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
