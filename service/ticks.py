"""The ticks of schedules: when each comes, in the schedule's time zone, with the event it makes.

A tick is a moment in seconds since the epoch. The lines are those of Debian's cron, and so is what happens when
clocks are put forward or back (https://manpages.debian.org/bookworm/cron/cron.8.en.html):

- A line whose minute and hour are both fixed (`30 2 * * *`) keeps to the wall clock. A tick that falls into the hour
  that is left out comes at its end (02:30 at 03:00); one in the hour that comes twice, comes the first time only.
- A line whose minute or hour begins with a star (`*/15 * * * *`, `0 * * * *`) keeps to real time: it has no tick in
  the hour that is left out, and ticks in both of the hour that comes twice.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from service.access import Principal
from service.event import Event
from service.ledger.records import Schedule

SCHEDULES = Principal("schedules", "token")
"""Who asks for what a schedule's tick makes."""
FIELDS = 5
WHOSE = frozenset({"localtime", "posixrules"})
"""Names that mean another zone on every machine."""


class InvalidCron(ValueError):
    """A line that is not cron's; the text says what to write."""


class InvalidTimezone(ValueError):
    """No time zone has that name here."""


def check_cron(line: str) -> str:
    """The line with single spaces. Raises `InvalidCron`."""
    parts = line.split()
    if len(parts) != FIELDS:
        raise InvalidCron("A cron line has five fields: minute, hour, day, month, weekday; for example 0 3 * * *.")
    try:
        CronSim(line, datetime(2000, 1, 1))  # noqa: DTZ001  only to have the line parsed, whatever the zone
    except CronSimError as error:
        raise InvalidCron(f"{error} in the cron line; write for example 0 3 * * * or */15 8-17 * * MON-FRI.") from None
    return " ".join(parts)


def zone(name: str) -> ZoneInfo:
    """Raises `InvalidTimezone`."""
    try:
        if name not in WHOSE:
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder, `Europe`, or a name too long for a file
        pass
    raise InvalidTimezone("There is no such time zone; write for example UTC or Europe/Berlin.")


def next_tick(line: str, timezone: str, after: float) -> float | None:
    """The first tick later than `after`; None when there is none within 50 years.

    Raises `InvalidCron`, `InvalidTimezone`.
    """
    try:
        ticks = CronSim(line, datetime.fromtimestamp(after, zone(timezone)))
    except CronSimError as error:
        raise InvalidCron(str(error)) from None
    for tick in ticks:
        # Begun in the second of two equal hours, a line with fixed times finds its tick in the first of them.
        if (moment := tick.timestamp()) > after:
            return moment
    return None


def newest_tick(line: str, timezone: str, tick: float, now: float) -> float:
    """The last tick that is not later than `now`, where `tick` is one of them; found by halving, not by counting."""
    newest, end = tick, now
    while end - newest >= 1:
        middle = (newest + end) / 2
        found = next_tick(line, timezone, middle)
        if found is not None and found <= now:
            newest = found
        else:
            end = middle
    return newest


def tick_event(schedule: Schedule, tick: float) -> Event:
    """The event of a tick: the same id wherever and whenever it is made, so it counts once."""
    moment = datetime.fromtimestamp(tick, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Event(f"{schedule.name}/{moment}", SCHEDULES.source, schedule.operation, schedule.data)
