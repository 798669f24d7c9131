"""The journal of test handlers: what counts as two attempts at work at once."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.journal import Entry, Journal, Moment, overlaps, stretches


def entry(moment: Moment, at: float, token: int = 0, *, pid: int = 1, key: str | None = "k", how: str = "") -> Entry:
    return Entry(moment, at, pid, f"job-{token}", token, key, how)


def test_two_attempts_one_after_the_other_do_not_overlap() -> None:
    worked = stretches([entry("begin", 1, 1), entry("end", 2, 1, how="done"), entry("begin", 2, 2), entry("end", 3, 2)])
    assert [(each.begin, each.end, each.how) for each in worked] == [(1, 2, "done"), (2, 3, "")]
    assert not overlaps(worked)


def test_two_attempts_at_once_on_one_key_are_found_although_a_short_one_lies_between() -> None:
    worked = stretches(
        [
            entry("begin", 1, 1),
            entry("begin", 2, 2, pid=2),
            entry("end", 3, 2, pid=2),
            entry("begin", 4, 3, pid=2),
            entry("end", 5, 3, pid=2),
            entry("end", 6, 1),
        ]
    )
    assert [(one.token, other.token) for one, other in overlaps(worked)] == [(1, 2), (1, 3)]


def test_attempts_on_different_keys_may_overlap() -> None:
    assert not overlaps(stretches([entry("begin", 1, 1, key="a"), entry("begin", 1, 2, key="b")]))


def test_two_attempts_at_one_job_without_a_key_overlap() -> None:
    twice = [Entry("begin", 1, 1, "job", 1), Entry("begin", 2, 2, "job", 2)]
    assert len(overlaps(stretches(twice))) == 1


def test_a_kill_ends_what_its_process_did_and_nothing_else() -> None:
    worked = stretches(
        [entry("begin", 1, 1), entry("begin", 1, 2, pid=2, key="b"), entry("killed", 3), entry("begin", 4, 3, pid=2)]
    )
    assert [(each.token, each.how, each.end) for each in worked] == [
        (1, "killed", 3),
        (2, "open", float("inf")),
        (3, "open", float("inf")),
    ]
    assert not overlaps(worked)


def test_lines_of_many_writers_stay_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")

    def write(number: int) -> None:
        for token in range(100):
            journal.note("begin", job_id=f"{number}-{token}", token=token)
            journal.note("end", job_id=f"{number}-{token}", token=token, how="done")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.how for each in journal.stretches()] == ["done"] * 400
