"""Assertions as requests write them: a question about the restored backup, and what its answer must be."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from engines.assertions import Assertion


class AssertionRequest(BaseModel):
    """Asked of the scratch database of level 3, read-only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        default=None, description="What evidence calls it; the question itself when left out."
    )
    sql: Annotated[str, StringConstraints(min_length=1, max_length=10_000)] | None = Field(
        default=None, description="One query; the first column of its first row is the answer."
    )
    collection: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = Field(
        default=None, description="MongoDB: the answer is how many documents match `filter`."
    )
    filter: dict[str, Any] | None = Field(default=None, description="MongoDB filter as Extended JSON; all without it.")
    equals: int | str | None = Field(default=None, description="The answer must be this.")
    at_least: int | None = None
    at_most: int | None = None

    @model_validator(mode="after")
    def _one_question_with_an_answer(self) -> AssertionRequest:
        if (self.sql is None) == (self.collection is None):
            raise ValueError("give either sql or collection")
        if self.filter is not None and self.collection is None:
            raise ValueError("filter goes with collection")
        if self.equals is None and self.at_least is None and self.at_most is None:
            raise ValueError("give equals, at_least or at_most")
        return self

    def assertion(self) -> Assertion:
        return Assertion(
            name=self.name or (self.sql or f"count of {self.collection}")[:200],
            sql=self.sql,
            collection=self.collection,
            filter=self.filter,
            equals=self.equals,
            at_least=self.at_least,
            at_most=self.at_most,
        )
