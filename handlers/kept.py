"""Databases that a restore keeps for a time: their names, and the removal that ends them.

Only what FlexDB made and named itself is ever dropped: nobody's own database can have such a name by accident.
"""

from __future__ import annotations

import re

from engines.base import Target
from handlers.base import Later, target_claim

PREFIX = "flexdb_kept_"
NAME = re.compile(r"^(/([^\x00]*/)?)?flexdb_kept_[0-9a-z]{1,40}$")
"""SQLite's may have its folder before it, as the restore told it."""
LONGEST_SECONDS = 366 * 86400
ATTEMPTS = 100
"""A server that is away when the time is over is asked again, for days if need be."""


def kept_name(job_id: str) -> str:
    return PREFIX + job_id


def removal_of(target: Target, connection: str, name: str, seconds: float) -> Later:
    """The removal of the database `name`, which is `target`, when its time is over."""
    return Later(
        operation="removal",
        connection=connection,
        data={"connection": connection, "database": name},
        claims=(target_claim(target),),
        seconds=seconds,
        max_attempts=ATTEMPTS,
    )
