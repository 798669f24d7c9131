"""Runs the benchmarks named, or all, one after the other, and prints their tables."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from benchmarks import (
    arithmetic,
    claim,
    fetching,
    flat_memory,
    growth,
    idle,
    ingest,
    intake,
    intake_postgres,
    machine,
    mariadb_backup,
    mariadb_restore,
    mongodb_backup,
    mongodb_restore,
    postgres_backup,
    postgres_restore,
    queue_to_queue,
    records_http,
    replicas,
    sqlite_backup,
    upsert,
    verification,
)
from benchmarks.context import Context, opened
from benchmarks.processes import BenchmarkError
from benchmarks.report import Result, show
from benchmarks.unavailable import UnavailableError

BENCHMARKS: dict[str, Callable[[Context], Result]] = {
    "intake": intake.run,
    "intake_postgres": intake_postgres.run,
    "queue": queue_to_queue.run,
    "claim": claim.run,
    "growth": growth.run,
    "replicas": replicas.run,
    "idle": idle.run,
    "postgres_backup": postgres_backup.run,
    "postgres_restore": postgres_restore.run,
    "sqlite_backup": sqlite_backup.run,
    "mariadb_backup": mariadb_backup.run,
    "mariadb_restore": mariadb_restore.run,
    "mongodb_backup": mongodb_backup.run,
    "mongodb_restore": mongodb_restore.run,
    "verification": verification.run,
    "upsert": upsert.run,
    "records_http": records_http.run,
    "fetching": fetching.run,
    "ingest_http": ingest.run,
    "arithmetic": arithmetic.run,
    "flat_memory": flat_memory.run,
}
ROUNDS, QUICK_ROUNDS = 3, 2
BUSY = 0.5
"""Load average from which figures are not to be trusted."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all unless given")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, not how fast")
    parser.add_argument("--long", action="store_true", help="flat_memory up to 4 GB, which takes an hour and 16 GB")
    parser.add_argument("--rounds", type=int, help=f"how often each is measured ({ROUNDS}, quick {QUICK_ROUNDS})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    found = parser.parse_args()
    unknown = sorted(set(found.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    return found


def main() -> int:
    """0 when all that was asked for was measured; goals that were missed are told, not punished."""
    asked = arguments()
    console = Console(width=None if sys.stdout.isatty() else 160)
    known = machine.facts()
    console.print("  ".join(f"{name} {value}" for name, value in known.items()), style="dim", highlight=False)
    if float(known["load before"]) > BUSY:
        console.print("[red]this machine is at work already: figures, and some ratios, will be off[/red]")
    results: dict[str, Any] = {}
    missed: list[str] = []
    failures: list[str] = []
    began = time.monotonic()
    rounds = asked.rounds or (QUICK_ROUNDS if asked.quick else ROUNDS)
    with opened(asked.quick, rounds, asked.long) as context:
        for name in asked.names or BENCHMARKS:
            try:
                result = BENCHMARKS[name](context)
            except (UnavailableError, BenchmarkError) as error:
                failures.append(f"{name}: {error}")
                console.print(f"\n[red]NOT MEASURED[/red] {name}: {escape(str(error))}", highlight=False)
                continue
            show(result, console)
            results[name] = result.as_json()
            missed += result.missed()
    if asked.quick:
        console.print("\nquick: the sizes are small, goals are meant for a full run", style="dim")
    _conclude(console, missed, time.monotonic() - began)
    if asked.json:
        document = {
            "machine": known,
            "quick": asked.quick,
            "results": results,
            "missed": missed,
            "failures": failures,
        }
        asked.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if failures else 0


def _conclude(console: Console, missed: list[str], seconds: float) -> None:
    console.print()
    for line in missed:
        console.print(f"[red]goal missed:[/red] {line}", highlight=False)
    if not missed:
        console.print("every goal that was measured is met")
    console.print(f"took {seconds / 60:.1f} min; only ratios of one run are worth quoting", style="dim")


if __name__ == "__main__":
    sys.exit(main())
