"""Entity tags of records, and the conditions on them that HTTP calls `If-Match` and `If-None-Match` (RFC 9110)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TAG = re.compile(r'\s*(W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')


class PreconditionFailed(Exception):
    """The record is not in the state the caller expects; nothing was done. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Preconditions:
    """The two headers as they came, None for one that did not."""

    if_match: str | None = None
    if_none_match: str | None = None

    @property
    def given(self) -> bool:
        return self.if_match is not None or self.if_none_match is not None

    def check(self, etag: str | None) -> None:
        """Raise `PreconditionFailed` unless they hold for a record with this tag, None for a record that is not."""
        if self.if_match is not None and not _listed(self.if_match, etag, weak=False):
            state = "There is no such record" if etag is None else f"The record has changed; its ETag is now {etag}"
            raise PreconditionFailed(f"{state}. Get it again, and send If-Match with the ETag you got.")
        if self.if_none_match is not None and _listed(self.if_none_match, etag, weak=True):
            raise PreconditionFailed("There is such a record already, and If-None-Match says that there must not be.")

    def unchanged(self, etag: str) -> bool:
        """Whether a reader who sent `If-None-Match` has this very record already (HTTP's 304)."""
        return self.if_none_match is not None and _listed(self.if_none_match, etag, weak=True)


NO_CONDITIONS = Preconditions()


def _listed(header: str, etag: str | None, *, weak: bool) -> bool:
    """Whether a header's list names the tag. A header that is no list of tags names none."""
    if etag is None:
        return False
    if header.strip() == "*":
        return True
    position = 0
    while position < len(header):
        found = _TAG.match(header, position)
        if found is None:
            return False
        if found[2] == etag and (weak or not found[1]):
            return True
        position = found.end()
    return False
