"""Ticks of cron lines: what is a line, what is a time zone, and what happens when clocks are changed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.ledger.records import Schedule
from service.ticks import InvalidCron, InvalidTimezone, check_cron, newest_tick, next_tick, tick_event, zone

FIELDS = (
    st.sampled_from(["*", "*/7", "0", "5,35", "10-50/20", "59"]),
    st.sampled_from(["*", "*/3", "2", "1-3", "2,3", "0", "23"]),
    st.sampled_from(["*", "L", "29", "LW", "*/10"]),
    st.sampled_from(["*", "3", "10", "3,10"]),
    st.sampled_from(["*", "SUN", "5L", "MON#2", "1-5"]),
)
LINES = st.tuples(*FIELDS).map(" ".join)
ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "UTC"])
MOMENTS = st.floats(1_760_000_000, 1_860_000_000)


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def ticks(line: str, timezone: str, after: str, number: int) -> list[str]:
    """The next ones on the wall clock of that zone."""
    moment: float | None = at(after)
    found = []
    for _ in range(number):
        assert moment is not None
        moment = next_tick(line, timezone, moment)
        assert moment is not None
        found.append(datetime.fromtimestamp(moment, zone(timezone)).isoformat())
    return found


@pytest.mark.parametrize(
    ("line", "kept"), [("0 3 * * *", "0 3 * * *"), (" */15\t8-17  * *\nMON-FRI ", "*/15 8-17 * * MON-FRI")]
)
def test_a_line_is_kept_with_single_spaces(line: str, kept: str) -> None:
    assert check_cron(line) == kept


@pytest.mark.parametrize(
    "line",
    ["", "0 3 * *", "0 0 3 * * *", "@daily", "60 3 * * *", "0 3 * * MONDAY", "0 3 31 2 *", "*/0 * * * *", "x" * 50],
)
def test_what_is_no_line_is_refused_with_an_example(line: str) -> None:
    with pytest.raises(InvalidCron, match="for example"):
        check_cron(line)


@settings(deadline=None)
@given(st.lists(st.text("0123456789*,-/#LWSUNMOFJA ²é", min_size=1, max_size=6), min_size=5, max_size=5))
def test_any_text_is_a_line_or_refused(parts: list[str]) -> None:
    try:
        line = check_cron(" ".join(parts))
    except InvalidCron:
        return
    next_tick(line, "Europe/Berlin", 1_700_000_000.0)


@pytest.mark.parametrize(
    "name",
    ["", "Mars/Phobos", "Europe", "localtime", "../etc/passwd", "/etc/localtime", "x" * 400, "a\0b", "europe/berlin"],
)
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidTimezone):
        zone(name)


def test_a_tick_comes_later_than_the_moment_asked_for_and_on_the_whole_minute() -> None:
    assert next_tick("0 3 * * *", "UTC", at("2026-11-21T02:59:59.999+00:00")) == at("2026-11-21T03:00+00:00")
    assert next_tick("0 3 * * *", "UTC", at("2026-11-21T03:00:00+00:00")) == at("2026-11-22T03:00+00:00")
    assert next_tick("0 3 * * *", "Asia/Kathmandu", at("2026-11-21T00:00+00:00")) == at("2026-11-21T21:15+00:00")


def test_a_line_that_never_comes_true_has_no_tick() -> None:
    assert next_tick("* * */20 * 1L", "UTC", 1_700_000_000.0) is None


# ---------------------------------------------------------------- clocks put forward and back


def test_a_fixed_time_in_the_hour_left_out_comes_once_at_its_end() -> None:
    assert ticks("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00+01:00", 2) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    assert ticks("0,20,40 2 * * *", "Europe/Berlin", "2026-03-28T12:00+01:00", 2) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:00:00+02:00",
    ]


def test_a_fixed_time_in_the_hour_that_comes_twice_comes_the_first_time_only() -> None:
    once = ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]
    assert ticks("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00+02:00", 2) == once
    assert ticks("30 2 * * *", "Europe/Berlin", "2026-10-25T02:10+01:00", 1) == once[1:], "asked for in the second hour"


def test_lines_with_a_star_keep_to_real_time() -> None:
    assert ticks("30 * * * *", "Europe/Berlin", "2026-03-29T00:45+01:00", 3) == [
        "2026-03-29T01:30:00+01:00",
        "2026-03-29T03:30:00+02:00",
        "2026-03-29T04:30:00+02:00",
    ]
    assert ticks("30 * * * *", "Europe/Berlin", "2026-10-25T01:45+02:00", 3) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:30:00+01:00",
        "2026-10-25T03:30:00+01:00",
    ]


def test_midnight_may_be_what_is_left_out() -> None:
    assert ticks("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00+02:00", 2) == [
        "2026-04-24T01:00:00+03:00",
        "2026-04-25T00:00:00+03:00",
    ]


# ---------------------------------------------------------------- the newest of many


@settings(deadline=None)
@given(LINES, ZONES, MOMENTS, st.floats(1, 20 * 86400))
def test_the_newest_tick_is_the_last_one_counted(line: str, timezone: str, start: float, span: float) -> None:
    first = next_tick(line, timezone, start)
    if first is None:
        return
    now, last, counted = first + span, first, 0
    while counted < 500 and (following := next_tick(line, timezone, last)) is not None and following <= now:
        assert following > last
        last, counted = following, counted + 1
    assert newest_tick(line, timezone, first, last + 0.5) == last


def test_years_of_missed_minutes_are_found_at_once() -> None:
    first, now = at("2016-11-21T03:00+00:00"), at("2026-11-21T03:00:30+00:00")
    assert newest_tick("* * * * *", "Europe/Berlin", first, now) == at("2026-11-21T03:00+00:00")


# ---------------------------------------------------------------- the event


def test_the_same_tick_makes_the_same_event_wherever_it_is_made() -> None:
    data: dict[str, Any] = {"connection": "shop"}
    made = tick_event(Schedule("nightly", "0 3 * * *", "Europe/Berlin", "backup", data), at("2026-11-21T03:00+01:00"))
    assert (made.source, made.id) == ("/flexdb/schedules", "nightly/2026-11-21T02:00:00Z")
    assert (made.operation, made.data) == ("backup", data)
