"""Regular expressions of JSON Schemas: understood as there, refused where one could hold the service up for ever."""

from __future__ import annotations

import re

LONGEST_PATTERN = 200
LARGEST_REPEAT = 1000
LONGEST_MATCHED = 1000
"""Characters of a text that a pattern may be tried on."""
MOST_STEPS = 10**8
_COUNTED = re.compile(r"\{(\d+)(,(\d*))?\}")


class PatternRefused(ValueError):
    """The message is a sentence that says what cannot be had."""


def python_pattern(text: str, max_length: int | None) -> str:
    """The same expression for Python's `re.search`: ASCII classes, `$` only at the very end.

    Raises `PatternRefused` for what is no expression, and for what may take very long on a text of `max_length`: a
    repeated group in which something repeats or branches, look-around, back references, many repetitions in a row.
    """
    if len(text) > LONGEST_PATTERN:
        raise PatternRefused(f"A pattern has at most {LONGEST_PATTERN} characters.")
    if max_length is None or max_length > LONGEST_MATCHED:
        raise PatternRefused(f"Beside a pattern there must be a maxLength of at most {LONGEST_MATCHED}.")
    walk = _Walk(text, max_length)
    translated = walk.translated()
    if walk.steps > MOST_STEPS:
        raise PatternRefused(f"This pattern may take very long on {max_length} characters: let it repeat less often.")
    try:
        re.compile(translated)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternRefused(f"This is no regular expression that FlexDB understands: {error}.") from None
    return translated


class _Walk:
    """Goes through an expression once, from left to right."""

    def __init__(self, text: str, max_length: int) -> None:
        self.steps = 1 if text.startswith("^") and "|" not in text else max_length
        """How many ways there are, at most, to lay the expression over a text."""
        self._text = text
        self._max_length = max_length
        self._at = 0
        self._out: list[str] = ["(?a)"]
        self._risky: list[bool] = [False]
        """For each open group, whether something in it repeats or branches."""
        self._last_risky = False
        """Whether what a repetition would repeat now is a risky group."""

    def translated(self) -> str:
        while self._at < len(self._text):
            self._step(self._text[self._at])
        if len(self._risky) != 1:
            raise PatternRefused("A bracket is not closed.")
        return "".join(self._out)

    def _step(self, mark: str) -> None:
        if mark == "\\":
            self._escape()
        elif mark == "[":
            self._set()
        elif mark == "(":
            self._open()
        elif mark == ")":
            self._close()
        elif mark in "*+?{":
            self._repeat(mark)
        else:
            if mark == "|":
                self._risky[-1] = True
            self._take(1, r"\Z" if mark == "$" else None)
            self._last_risky = False

    def _take(self, count: int, instead: str | None = None) -> None:
        self._out.append(self._text[self._at : self._at + count] if instead is None else instead)
        self._at += count

    def _escape(self) -> None:
        following = self._text[self._at + 1 : self._at + 2]
        if following == "k" or (following.isdigit() and following != "0"):
            raise PatternRefused("A pattern cannot refer back to a group.")
        if following in ("A", "Z", "z", "p", "P"):
            raise PatternRefused(f"A pattern cannot use \\{following}.")
        self._take(2)
        self._last_risky = False

    def _set(self) -> None:
        at = self._at + 1
        while at < len(self._text) and self._text[at] != "]":
            at += 2 if self._text[at] == "\\" else 1
        inside = self._text[self._at + 1 : at]
        if not inside.removeprefix("^"):
            raise PatternRefused("A set of characters in [ ] is empty.")
        self._take(at + 1 - self._at, "[" + inside.replace("[", r"\[").replace(r"\\[", r"\[") + "]")
        self._last_risky = False

    def _open(self) -> None:
        if self._text.startswith("(?", self._at) and not self._text.startswith("(?:", self._at):
            raise PatternRefused("A pattern cannot use (?…) but (?:…).")
        self._take(3 if self._text.startswith("(?:", self._at) else 1)
        self._risky.append(False)
        self._last_risky = False

    def _close(self) -> None:
        if len(self._risky) == 1:
            raise PatternRefused("A bracket is closed that was not opened.")
        self._take(1)
        self._last_risky = self._risky.pop()
        self._risky[-1] = self._risky[-1] or self._last_risky

    def _repeat(self, mark: str) -> None:
        counted = _COUNTED.match(self._text, self._at)
        if mark == "{" and counted is None:
            self._take(1)
            self._last_risky = False
            return
        if counted is not None:
            most = int(counted[3] or counted[1]) if counted[3] != "" else None
            if max(int(counted[1]), most or 0) > LARGEST_REPEAT:
                raise PatternRefused(f"A pattern repeats at most {LARGEST_REPEAT} times.")
            varies = counted[2] is not None
        else:
            most, varies = (1, True) if mark == "?" else (None, True)
        if self._last_risky and most != 1:
            raise PatternRefused("A group that repeats or branches cannot be repeated itself: it may take for ever.")
        self._take(len(counted[0]) if counted else 1)
        if self._text[self._at : self._at + 1] == "?":
            self._take(1)  # a lazy repetition matches the same texts
        elif self._text[self._at : self._at + 1] == "+":
            raise PatternRefused("A pattern cannot repeat possessively.")
        if varies:
            self.steps *= 2 if most == 1 else min(most or self._max_length, self._max_length)
        self._risky[-1] = self._risky[-1] or (varies and most != 1)
        self._last_risky = False
