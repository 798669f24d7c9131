"""Results and how they are shown: medians, ratios taken round by round, goals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable


@dataclass(frozen=True, slots=True)
class Goal:
    """`row` is to be at most (or at least) `limit` times `against`."""

    row: str
    against: str
    limit: float
    at_least: bool = False

    def met(self, ratio: float) -> bool:
        return ratio >= self.limit if self.at_least else ratio <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g} x {self.against}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, with the highest value it should have, if there is one."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def verdict(self) -> str:
        return "" if self.limit is None else _verdict(self.value < self.limit)


@dataclass(slots=True)
class Result:
    """One benchmark's outcome: for each row one value per round, in the order of the rounds."""

    title: str
    unit: str = ""
    rows: dict[str, list[float]] = field(default_factory=dict)
    baseline: str = ""
    baselines: dict[str, str] = field(default_factory=dict)
    """Rows that are compared with another row than the baseline."""
    compared: str = ""
    """What the column of ratios is called where `ratio to BASELINE` does not fit."""
    goals: tuple[Goal, ...] = ()
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shown: dict[str, dict[str, str]] = field(default_factory=dict)
    """Further columns: column name to row name to text."""

    def ratios(self, row: str, against: str) -> list[float]:
        """Of each round its own: what slows a round down slows both."""
        return [ours / theirs for ours, theirs in zip(self.rows[row], self.rows[against], strict=True)]

    def baseline_of(self, row: str) -> str:
        return self.baselines.get(row, self.baseline)

    def missed(self) -> list[str]:
        """Goals and limits that were not met, in words."""
        missed = [
            f"{goal.row} {goal} (was {median(self.ratios(goal.row, goal.against)):.2f})"
            for goal in self._applicable()
            if not goal.met(median(self.ratios(goal.row, goal.against)))
        ]
        beyond = [f for f in self.figures if f.limit is not None and f.value >= f.limit]
        return missed + [f"{f.name} < {f.limit:g} {f.unit} (was {f.value:.3g})" for f in beyond]

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "unit": self.unit,
            "baseline": self.baseline,
            "baselines": self.baselines,
            "rows": self.rows,
            "medians": {name: median(values) for name, values in self.rows.items()},
            "goals": [
                {
                    "row": goal.row,
                    "against": goal.against,
                    "limit": goal.limit,
                    "at_least": goal.at_least,
                    "ratio": median(self.ratios(goal.row, goal.against)),
                    "met": goal.met(median(self.ratios(goal.row, goal.against))),
                }
                for goal in self._applicable()
            ],
            "figures": [{"name": f.name, "value": f.value, "unit": f.unit, "limit": f.limit} for f in self.figures],
            "notes": self.notes,
            "shown": self.shown,
        }

    def _applicable(self) -> list[Goal]:
        """Goals whose rows could both be measured."""
        return [goal for goal in self.goals if goal.row in self.rows and goal.against in self.rows]


def show(result: Result, console: Console) -> None:
    console.print()
    console.print(f"[bold]{result.title}[/bold]")
    if result.rows:
        console.print(_measured(result))
    if result.figures:
        console.print(_figures(result.figures))
    for note in result.notes:
        console.print(f"  {note}", style="dim", highlight=False, markup=False)


def _measured(result: Result) -> RichTable:
    compared = result.compared or f"ratio to {result.baseline}"
    table = RichTable("what", result.unit, compared, "rounds", *result.shown, "goal")
    for name, values in result.rows.items():
        further = [column.get(name, "") for column in result.shown.values()]
        table.add_row(
            name,
            _number(median(values)),
            _spread(result, name),
            str(len(values)),
            *further,
            "\n".join(_judged(result, goal) for goal in result.goals if goal.row == name),
        )
    return table


def _spread(result: Result, row: str) -> str:
    against = result.baseline_of(row)
    if against not in result.rows:
        return "not measured"
    ratios = result.ratios(row, against)
    return f"{median(ratios):.2f} [{min(ratios):.2f}..{max(ratios):.2f}]"


def _judged(result: Result, goal: Goal) -> str:
    if goal.against not in result.rows:
        return f"{goal}: not measured"
    ratio = median(result.ratios(goal.row, goal.against))
    return f"{goal}: {ratio:.2f} {_verdict(goal.met(ratio))}"


def _figures(figures: Sequence[Figure]) -> RichTable:
    table = RichTable("what", "measured", "goal")
    for figure in figures:
        goal = "" if figure.limit is None else f"< {figure.limit:g} {figure.unit} {figure.verdict}"
        table.add_row(figure.name, f"{_number(figure.value)} {figure.unit}", goal)
    return table


def _verdict(met: bool) -> str:
    return "[green]met[/green]" if met else "[red]missed[/red]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
