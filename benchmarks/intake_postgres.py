"""Durable intake on the PostgreSQL ledger, against the application that keeps nothing, and one commit per event."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.context import Context
from benchmarks.database import autocommitting, empty
from benchmarks.intake import BARE, Bench, bare, result, service
from benchmarks.ledgers import audited
from benchmarks.report import Goal, Result
from benchmarks.rounds import in_turn

SERVICE = "flexdb --role intake, PostgreSQL ledger"
DRAINING = "flexdb on PostgreSQL, a worker draining beside it"
COMMITS = "one commit per event in PostgreSQL"


def run(context: Context) -> Result:
    bench = Bench(context)
    folder = context.folder("intake-postgres")
    audits: list[str] = []
    with ExitStack() as stack:
        nothing_kept = stack.enter_context(bare(folder / "bare"))
        plain = stack.enter_context(empty())
        commits = stack.enter_context(bare(folder / "commits", plain))
        ledger = stack.enter_context(empty())
        with service(folder / "service", "intake", LEDGER_URL=ledger) as server:

            def draining() -> float:
                """A fresh one each time, killed after it: its backlog must not slow the others down."""
                home = folder / f"draining-{len(audits)}"
                before = bench.accepted(DRAINING)
                with empty() as url:
                    with service(home, "all", LEDGER_URL=url) as fresh:
                        rate = bench.load(DRAINING, fresh).per_second
                    audits.append(audited(DRAINING, url, home, bench.accepted(DRAINING) - before))
                return rate

            variants: dict[str, Callable[[], float]] = {
                BARE: lambda: bench.load(BARE, nothing_kept).per_second,
                SERVICE: lambda: bench.load(SERVICE, server).per_second,
                DRAINING: draining,
                COMMITS: lambda: bench.load(COMMITS, commits).per_second,
            }
            values = in_turn(variants, context.rounds)
        audits.insert(0, audited(SERVICE, ledger, folder, bench.accepted(SERVICE)))
        audits.append(_durability(ledger))
    goals = (Goal(SERVICE, COMMITS, 1.0, at_least=True),)
    return result("Durable intake on PostgreSQL", SERVICE, bench, values, goals, audits)


def _durability(url: str) -> str:
    with autocommitting(url) as cursor:
        cursor.execute(
            "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')"
        )
        version, fsync, commit = cursor.fetchone()
    return f"PostgreSQL {version}, fsync {fsync}, synchronous_commit {commit}, the server on this machine too"
