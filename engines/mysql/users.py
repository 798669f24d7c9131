"""Users, roles and their grants as SQL that can be run again."""

from __future__ import annotations

from collections.abc import Iterator

from engines.artefacts.writing import Sink
from engines.mysql.address import Address
from engines.mysql.session import Session, literal, rows, session
from engines.run import Run

OWN = frozenset({"mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys", "PUBLIC"})
"""Made by the server itself."""


def write(address: Address, sink: Sink, run: Run) -> None:
    """One statement per line and the mark that ends a whole script; raises `AccessDenied` without the privilege
    to read the table of users."""
    with session(address, run.application_name, stop=run.stop) as opened:
        sink.write(b"-- Users, roles and grants of the server\n\n")
        for line in _statements(opened, run):
            sink.write(line.encode() + b";\n")
        sink.write(b"\n-- Dump completed\n")


def _statements(opened: Session, run: Run) -> Iterator[str]:
    columns = {name for (name, *_) in rows(opened, "SHOW COLUMNS FROM mysql.user")}
    role = "is_role" if "is_role" in columns else "'N'"
    found = rows(opened, f"SELECT user, host, {role} FROM mysql.user ORDER BY {role} DESC, user, host")  # noqa: S608  one of two texts of ours
    known = [(user, host, is_role == "Y") for user, host, is_role in found if user not in OWN]
    names = [literal(user) if is_role else f"{literal(user)}@{literal(host)}" for user, host, is_role in known]
    for number, ((_, _, is_role), name) in enumerate(zip(known, names, strict=True)):
        run.progress("dumping globals", number, len(known), "users")
        if is_role:
            yield f"CREATE ROLE IF NOT EXISTS {name}"
        else:
            created = str(rows(opened, f"SHOW CREATE USER {name}")[0][0])
            yield created.replace("CREATE USER ", "CREATE USER IF NOT EXISTS ", 1)
    for name in names:
        for grant, *_ in rows(opened, f"SHOW GRANTS FOR {name}"):
            yield str(grant)
