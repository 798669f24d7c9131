"""What every implementation of `handlers.supplies.Stacks` promises; a class that inherits it gives `stacks`."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from handlers.supplies import Stacks

CLIENTS, EACH = 20, 8


class StacksSuite:
    """Subclasses have a fixture `stacks`: an empty `Stacks`."""

    def test_a_stack_that_nobody_pushed_is_empty(self, stacks: Stacks) -> None:
        assert stacks.size("new") == 0
        taken = stacks.top("new", 2)
        assert (taken.values, taken.size) == ((), 0)
        assert stacks.pop("new", 0, taken.revision)

    def test_the_last_pushed_is_topmost(self, stacks: Stacks) -> None:
        assert stacks.push("one", ["1", "2"]) == 2
        assert stacks.push("one", ["3"]) == 3
        assert stacks.top("one", 2).values == ("3", "2")
        assert stacks.top("one", 9).values == ("3", "2", "1")
        taken = stacks.top("one", 0)
        assert (taken.values, taken.size) == ((), 3)
        assert stacks.size("one") == 3, "looking removes nothing"

    def test_stacks_do_not_know_each_other(self, stacks: Stacks) -> None:
        stacks.push("one", ["1"])
        stacks.push("two", ["2", "3"])
        assert (stacks.size("one"), stacks.size("two")) == (1, 2)
        assert stacks.pop("two", 2, stacks.top("two", 2).revision)
        assert stacks.top("one", 1).values == ("1",)

    def test_popping_removes_the_topmost(self, stacks: Stacks) -> None:
        stacks.push("one", ["1", "2", "3"])
        assert stacks.pop("one", 2, stacks.top("one", 0).revision)
        assert stacks.top("one", 3).values == ("1",)
        stacks.push("one", ["4"])
        assert stacks.top("one", 3).values == ("4", "1")

    def test_long_numbers_are_kept_as_they_are(self, stacks: Stacks) -> None:
        long = "-" + "9" * 300_000
        stacks.push("one", [long, "0.10"])
        assert stacks.top("one", 2).values == ("0.10", long)

    def test_nothing_is_popped_from_a_stack_that_has_changed(self, stacks: Stacks) -> None:
        stacks.push("one", ["1", "2"])
        seen = stacks.top("one", 1)
        stacks.push("one", ["3"])
        assert not stacks.pop("one", 1, seen.revision)
        assert stacks.top("one", 3).values == ("3", "2", "1")
        assert stacks.pop("one", 1, stacks.top("one", 1).revision)
        assert not stacks.pop("one", 1, seen.revision), "it looks as it was seen, and yet it was changed twice"
        assert stacks.size("one") == 2

    def test_a_step_is_made_once(self, stacks: Stacks) -> None:
        assert stacks.push("one", ["1", "2", "3"], step="job/push") == 3
        assert stacks.push("one", ["1", "2", "3"], step="job/push") == 3
        stacks.push("one", ["4"])
        assert stacks.push("one", ["1", "2", "3"], step="job/push") == 3, "what the first call answered"
        assert stacks.size("one") == 4
        assert stacks.step("job/pop") is None
        assert stacks.pop("one", 2, stacks.top("one", 2).revision, step="job/pop", outcome='{"text": "7"}')
        assert stacks.step("job/pop") == '{"text": "7"}'
        assert stacks.size("one") == 2

    def test_a_pop_that_came_too_late_keeps_no_outcome(self, stacks: Stacks) -> None:
        stacks.push("one", ["1"])
        seen = stacks.top("one", 1)
        stacks.push("one", ["2"])
        assert not stacks.pop("one", 1, seen.revision, step="late", outcome="lost")
        assert stacks.step("late") is None

    def test_twenty_clients_lose_and_double_nothing(self, stacks: Stacks) -> None:
        begin = threading.Barrier(CLIENTS)

        def client(number: int) -> list[str]:
            begin.wait()
            popped: list[str] = []
            for turn in range(EACH):
                stacks.push("shared", [f"{number}{turn:02}", f"{number}{turn + 50:02}"])
                while True:
                    taken = stacks.top("shared", 1)
                    if stacks.pop("shared", 1, taken.revision):
                        popped += taken.values
                        break
            return popped

        with ThreadPoolExecutor(CLIENTS) as threads:
            popped = [value for found in threads.map(client, range(10, 10 + CLIENTS)) for value in found]
        left = stacks.top("shared", 10_000)
        pushed = [f"{n}{t + more:02}" for n in range(10, 10 + CLIENTS) for t in range(EACH) for more in (0, 50)]
        assert Counter([*popped, *left.values]) == Counter(pushed)
        assert left.size == CLIENTS * EACH
