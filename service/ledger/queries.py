"""Loads the named queries of `queries.sql`: `sql.finish_job` is the text below `-- name: finish_job`."""

from __future__ import annotations

import re
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


class Queries:
    """Named SQL texts as attributes; an unknown name raises `AttributeError`."""

    def __init__(self, text: str) -> None:
        parts = _NAME.split(text)
        self._texts: dict[str, str] = {}
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            if name in self._texts:
                raise ValueError(f"two queries are called {name}")
            self._texts[name] = _without_comments(body)

    def __getattr__(self, name: str) -> str:
        try:
            return self.__dict__["_texts"][name]  # type: ignore[no-any-return]  # __dict__ is untyped
        except KeyError:
            raise AttributeError(f"queries.sql has no query {name!r}") from None

    def names(self) -> list[str]:
        return sorted(self._texts)


def _without_comments(body: str) -> str:
    return "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip()


def load(file: str = "queries.sql") -> Queries:
    return Queries(resources.files("service.ledger").joinpath(file).read_text(encoding="utf-8"))


sql = load()
