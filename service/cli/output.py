"""What commands print: tables for people, tab-separated text for pipes, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from service.cli.exits import CommandError, Refused

if TYPE_CHECKING:
    from rich.console import Console

ROWS_SHOWN = 40
UNSHOWN = frozenset({"links"})


@cache
def console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def printable(value: Any) -> str:
    """One cell: None is empty, control characters are escaped (a name must not steer the terminal)."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:,.3f}".rstrip("0").rstrip(".")
    elif isinstance(value, Mapping | list | tuple):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = str(value)
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def size(count: int | float | None) -> str:
    """Bytes for people."""
    if count is None:
        return ""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError("unreachable")


def write_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def say(text: str) -> None:
    """A line, or several, on standard output."""
    sys.stdout.write("\n".join(printable(line) for line in text.split("\n")) + "\n")


def note(text: str) -> None:
    """A sentence beside the result, on standard error."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def write_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", empty: str = "none") -> None:
    """A table on a terminal; elsewhere a heading line and rows, separated by tabs."""
    cells = [[printable(value) for value in row] for row in rows]
    if not console().is_terminal:
        sys.stdout.writelines("\t".join(line) + "\n" for line in [list(columns), *cells])
        return
    if not cells:
        say(f"{title}: {empty}" if title else empty)
        return
    _rich_table(columns, cells, title)


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left", pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, overflow="fold", no_wrap=number == 0)
    for line in cells:
        table.add_row(*(Text(cell, style=_STYLE.get(cell, "")) for cell in line))
    console().print(table, soft_wrap=False)


_STYLE = {
    "succeeded": "green",
    "delivered": "green",
    "ok": "green",
    "failed": "bold red",
    "fails": "bold red",
    "abandoned": "bold red",
    "canceled": "yellow",
    "warning": "yellow",
    "running": "cyan",
}


def write_fields(fields: Mapping[str, Any]) -> None:
    """One thing: its plain values as name and value, each list of objects as a table of its own."""
    tables = {name: value for name, value in fields.items() if _is_table(value)}
    plain = {name: value for name, value in fields.items() if name not in tables and name not in UNSHOWN}
    if console().is_terminal:
        _rich_fields(plain)
    else:
        sys.stdout.writelines(f"{name}\t{_shown(name, value)}\n" for name, value in plain.items())
    for name, value in tables.items():
        _write_list(name, value)


def _shown(name: str, value: Any) -> str:
    if name.endswith("bytes") and isinstance(value, int):
        return f"{value:,} ({size(value)})" if value >= 1000 else f"{value}"
    return printable(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _rich_fields(plain: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in plain.items():
        if value is not None:
            text = _shown(name, value)
            grid.add_row(Text(name, style="dim"), Text(text, style=_STYLE.get(text, "")))
    console().print(grid, soft_wrap=False)


def _write_list(name: str, items: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for item in items for key, value in item.items() if value is not None))
    sys.stdout.write("\n" if console().is_terminal else f"\n{name}:\n")
    shown = items if not console().is_terminal else items[:ROWS_SHOWN]
    write_table(columns, [[item.get(column) for column in columns] for item in shown], title=name)
    if len(shown) < len(items):
        say(f"… and {len(items) - len(shown)} more; --json shows all")


def write_error(error: CommandError) -> None:
    """What went wrong on standard error: title, detail, a line per pointer, and what to do."""
    lines = [f"flexdb: {error.message}"]
    if isinstance(error, Refused):
        problem = error.problem
        code = problem.get("code")
        lines[0] += f" [{code}]" if code else ""
        lines += [str(problem["detail"])] if problem.get("detail") else []
        lines += [f"  {pointer}: {detail}" for pointer, detail in faults(problem)]
    lines += [error.hint] if error.hint else []
    for line in lines:
        note(line)


def faults(problem: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(pointer, detail) of each fault a problem names."""
    listed = problem.get("errors")
    if not isinstance(listed, list):
        return []
    return [
        (str(item.get("pointer", "")).removeprefix("#"), str(item.get("detail", "")))
        for item in listed
        if isinstance(item, Mapping)
    ]
