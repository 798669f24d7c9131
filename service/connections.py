"""Named connections and stores, built from settings; what of FlexDB's own may never be written to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from engines.base import Target
from engines.errors import InvalidTarget, TargetProtected, UnknownConnection, UnsupportedOperation
from engines.registry import EngineRegistry
from engines.storage.base import Store


class NamedConnections:
    """Connections by name. URLs are parsed once, at start; a bad one is told when it is used."""

    def __init__(
        self,
        urls: Mapping[str, str],
        engines: EngineRegistry,
        *,
        scratch: Mapping[str, str] | None = None,
        protected: tuple[Path, ...] = (),
        exempt: tuple[Path, ...] = (),
        ledgers: tuple[str, ...] = (),
    ) -> None:
        """`protected` folders and files are never written to, but what lies in the `exempt` folders among them;
        nor are the databases that the URLs in `ledgers` lead to."""
        self._engines = engines
        self._scratch = dict(scratch or {})
        self._protected = tuple(Path(os.path.realpath(path)) for path in protected)
        self._exempt = tuple(Path(os.path.realpath(path)) for path in exempt)
        self._ledgers = frozenset(engines.by_scheme(url).target("ledger", url).key for url in ledgers)
        self._targets: dict[str, Target | InvalidTarget] = {}
        for name, url in urls.items():
            try:
                self._targets[name] = engines.by_scheme(url).target(name, url)
            except InvalidTarget as error:
                self._targets[name] = error

    def names(self) -> list[str]:
        return sorted(self._targets)

    def target(self, name: str) -> Target:
        found = self._targets.get(name)
        if found is None:
            raise UnknownConnection(f"There is no connection {name!r}.")
        if isinstance(found, InvalidTarget):
            raise InvalidTarget(f"The URL of connection {name!r} cannot be used: {found.message}", hint=found.hint)
        return found

    def scratch(self, target: Target) -> Target:
        name = self._scratch.get(target.connection)
        return self.target(name) if name else target

    def guard_write(self, target: Target) -> None:
        if target.key in self._ledgers:
            raise TargetProtected(f"The database of connection {target.connection!r} is FlexDB's own ledger.")
        if target.engine != "sqlite":
            return
        path = Path(os.path.realpath(target.database))
        if any(folder in path.parents for folder in self._exempt):
            return
        for kept in self._protected:
            if path == kept or kept in path.parents or _same_file(path, kept):
                raise TargetProtected(f"The file of connection {target.connection!r} belongs to FlexDB itself.")


def _same_file(path: Path, other: Path) -> bool:
    """A hard link to a protected file is that file."""
    try:
        return path.samefile(other)
    except OSError:
        return False


class NamedStores:
    """Stores by name; `default` is what None means."""

    def __init__(self, stores: Mapping[str, Store]) -> None:
        self._stores = dict(stores)

    def store(self, name: str | None) -> Store:
        try:
            return self._stores[name or "default"]
        except KeyError:
            known = ", ".join(sorted(self._stores))
            raise UnsupportedOperation(
                f"There is no store {name!r}; configured are: {known}.",
                hint="Set FLEXDB_STORES__NAME=URL, or leave `storage` out.",
            ) from None

    def all(self) -> list[Store]:
        return [self._stores[name] for name in sorted(self._stores)]
