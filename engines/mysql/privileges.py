"""What the connected user may do, read from SHOW GRANTS."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from engines.mysql.session import Session, rows

_GRANT = re.compile(r"^GRANT (?P<what>.+?) ON (?:TABLE )?(?P<where>\S.*?) TO ", re.IGNORECASE | re.DOTALL)
SETS_DEFINERS = frozenset({"SUPER", "SET USER", "SET_USER_ID", "SET_ANY_DEFINER"})


@dataclass(frozen=True, slots=True)
class Grant:
    privileges: frozenset[str]
    """Upper case; `ALL PRIVILEGES` stands for all."""
    database: str
    """Pattern as the server keeps it: `*`, or a name with `%` and `_`."""
    whole: bool
    """On everything in the database, not on one table."""

    def covers(self, database: str) -> bool:
        if self.database == "*":
            return True
        if self.database.lower() == database.lower():
            return True
        return fnmatchcase(database.lower(), _as_glob(self.database.lower()))

    def gives(self, privilege: str) -> bool:
        return bool(self.privileges & {privilege, "ALL PRIVILEGES", "ALL"})


def _as_glob(pattern: str) -> str:
    r"""`%` and `_` as they stand, `\%` and `\_` as the letters themselves."""
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    known = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return "".join(part[1] if len(part) == 2 else known.get(part, part) for part in parts)


def grants(opened: Session) -> list[Grant]:
    """Of the connected user, roles that are active among them."""
    found = []
    for text, *_ in rows(opened, "SHOW GRANTS"):
        match = _GRANT.match(str(text))
        if match is None:
            continue
        database, _, rest = match["where"].rpartition(".")
        name = database.strip("`").replace("``", "`")
        what = re.sub(r"\([^)]*\)", "", match["what"].upper())
        found.append(Grant(frozenset(part.strip() for part in what.split(",")), name, rest.strip("`") == "*"))
    return found


def missing(opened: Session, database: str, wanted: tuple[str, ...]) -> list[str]:
    """Those of the wanted privileges that no grant on the whole database gives."""
    known = [grant for grant in grants(opened) if grant.whole and grant.covers(database)]
    return [privilege for privilege in wanted if not any(grant.gives(privilege) for grant in known)]


def may_set_definers(opened: Session, definers: list[str]) -> bool:
    """Whether code that belongs to these users can be made by the connected one."""
    user = str(rows(opened, "SELECT CURRENT_USER()")[0][0])
    own = {f"`{name}`@`{host}`" for name, _, host in [user.rpartition("@")]}
    if not set(definers) - own - {"CURRENT_USER", "CURRENT_USER()"}:
        return True
    everywhere = [grant for grant in grants(opened) if grant.database == "*"]
    return any(grant.gives(name) for grant in everywhere for name in SETS_DEFINERS)
