"""Sources of records: how an event, a collection or the configuration says where records come from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from engines.errors import FlexError, InvalidTarget
from handlers.collections import Collection
from handlers.incoming import NAME
from handlers.supplies import Feeds, FetchRules

FEED_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
FIELD_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"
FEED_HINT = "Secrets stay in the configuration: name a feed, FLEXDB_FEEDS__NAME, and give `feed` instead of `url`."
_SECRET_NAMES = re.compile(
    r"(?i)^(x-)?(api[-_]?key|apikey|app[-_]?key|access[-_]?key|access[-_]?token|auth[-_]?token|token|secret|client[-_]?secret"
    r"|password|passwd|pwd|authorization|auth|sig|signature|jwt|bearer|credentials?|session([-_]?id)?)$"
)
_LONGEST_KEY = 16
"""A parameter called `key` with a value of this length or more is taken for a secret."""

Text = Annotated[str, Field(min_length=1, max_length=300)]
Style = Literal["auto", "none", "page", "offset", "cursor", "next", "link"]
Format = Literal["auto", "json", "ndjson", "csv"]
Scalar = str | int | bool


class PaginatorRequest(BaseModel):
    """How one page leads to the next. What is left out is found from the first answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    style: Style = Field(
        default="auto",
        description="`page`: numbered; `offset`: by count of records; `cursor`: a value of the answer as a parameter; "
        "`next`: a URL in the answer; `link`: the header `Link` with rel=next; `none`: one answer is all.",
    )
    page_parameter: Text | None = Field(default=None, description="Default `page`.")
    first_page: int | None = Field(default=None, ge=0, description="Number of the first page, default 1.")
    offset_parameter: Text | None = Field(default=None, description="Default `offset`.")
    size_parameter: Text | None = Field(default=None, description="Default `limit`; sent along with `size`.")
    size: int | None = Field(default=None, ge=1, le=1_000_000, description="Records to ask for in one page.")
    cursor_parameter: Text | None = Field(default=None, description="Default `cursor`.")
    cursor_path: Text | None = Field(default=None, description="Where an answer tells the cursor of the next page.")
    next_path: Text | None = Field(default=None, description="Where an answer tells the URL of the next page.")
    total_path: Text | None = Field(default=None, description="Where an answer tells the number of all records.")
    max_pages: int = Field(default=100_000, ge=1, le=10_000_000, description="More than these is a failure.")


class IncrementalRequest(BaseModel):
    """Ask for new records only: each run begins where the last one that ended well had come to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str = Field(pattern=FIELD_NAME, description="The collection's field whose largest value is remembered.")
    parameter: Text = Field(
        description="Query parameter in which the source takes that value, and answers what is as new or newer."
    )
    start: Scalar | None = Field(default=None, description="What the first run sends; nothing when left out.")


def _paginator(value: object) -> object:
    return {"style": value} if isinstance(value, str) else value


class SourceRequest(BaseModel):
    """Where records come from: exactly one of `url`, `feed` and `upload`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = Field(default=None, min_length=1, max_length=8192, description="http or https, without secrets.")
    feed: str | None = Field(default=None, pattern=FEED_NAME, description="A configured source, with its headers.")
    path: str | None = Field(default=None, max_length=4096, description="Added to the feed's URL; may have a query.")
    upload: str | None = Field(default=None, pattern=NAME, description="An uploaded file, see PUT /incoming/{name}.")
    storage: str | None = Field(default=None, description="Name of the configured store it was uploaded to.")
    format: Format = Field(default="auto", description="Told by the answer's type, or by the file's name.")
    records: str | None = Field(
        default=None, max_length=300, description="Where an answer has its records: `/a/b`, `a.b`, or `/` for itself."
    )
    paginator: Annotated[PaginatorRequest, BeforeValidator(_paginator)] = Field(
        default_factory=PaginatorRequest, description="A style, or an object with its parameters."
    )
    parameters: dict[Text, Scalar] = Field(default_factory=dict, max_length=64, description="Added to the query.")
    fields: dict[Annotated[str, Field(pattern=FIELD_NAME)], Text] = Field(
        default_factory=dict, max_length=1000, description="Field of the collection to path in the source's record."
    )
    incremental: IncrementalRequest | None = None
    rate: float | None = Field(default=None, gt=0, le=10_000, description="Requests a second at most.")
    in_flight: int = Field(default=8, ge=1, le=64, description="Requests at once at most.")
    seconds: float = Field(default=30.0, gt=0, le=3600, description="What one answer may take.")

    @field_validator("url")
    @classmethod
    def _without_secrets(cls, url: str | None) -> str | None:
        if url is not None and (reason := refused_url(url)):
            raise ValueError(reason)
        return url

    @field_validator("path")
    @classmethod
    def _below_the_feed(cls, path: str | None) -> str | None:
        if path is None:
            return None
        before = path.partition("?")[0]
        if "://" in path or path.startswith("//") or ".." in before.split("/") or "\\" in before or "#" in path:
            raise ValueError("it goes below the feed's URL: no scheme, no host, no `..`, no fragment")
        if secret := secret_parameter(parse_qsl(path.partition("?")[2], keep_blank_values=True)):
            raise ValueError(f"the parameter {secret!r} looks like a secret; it belongs into the feed's configuration")
        return path

    @field_validator("parameters")
    @classmethod
    def _harmless(cls, parameters: dict[str, Scalar]) -> dict[str, Scalar]:
        if secret := secret_parameter([(name, str(value)) for name, value in parameters.items()]):
            raise ValueError(f"the parameter {secret!r} looks like a secret. {FEED_HINT}")
        return parameters

    @model_validator(mode="after")
    def _one_place(self) -> SourceRequest:
        places = [name for name in ("url", "feed", "upload") if getattr(self, name) is not None]
        if len(places) != 1:
            raise ValueError("exactly one of `url`, `feed` and `upload` is given")
        if self.feed is None and self.path is not None:
            raise ValueError("`path` goes with `feed`")
        if self.upload is None and self.storage is not None:
            raise ValueError("`storage` goes with `upload`")
        return self


def short_form(value: object) -> object:
    """A string is a URL, or the name of a feed."""
    if isinstance(value, str):
        return {"url": value} if "://" in value else {"feed": value}
    return value


SourceField = Annotated[SourceRequest, BeforeValidator(short_form)]
"""A source as a field of a model; a plain string is a URL, or without `://` a feed's name."""


def refused_url(url: str) -> str | None:
    """Why this URL may not be in an event; None when it may. Never quotes the secret."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "it is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or any(ord(c) < 33 for c in url):
        return "it is no http or https URL"
    if "@" in parts.netloc:
        return f"it holds a user or password. {FEED_HINT}"
    if secret := secret_parameter(parse_qsl(parts.query, keep_blank_values=True)):
        return f"its parameter {secret!r} looks like a secret. {FEED_HINT}"
    return None


def secret_parameter(pairs: list[tuple[str, str]]) -> str | None:
    """The first name that looks as if its value were a secret."""
    for name, value in pairs:
        if value and (_SECRET_NAMES.match(name) or (name.lower() == "key" and len(value) >= _LONGEST_KEY)):
            return name
    return None


@dataclass(frozen=True, slots=True)
class Source:
    """A source, ready to be asked."""

    request: SourceRequest
    """With the feed's options as defaults."""
    url: str | None = field(default=None, repr=False)
    """To be asked first, with `parameters`; None for an upload. May hold a feed's secrets: never show it."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def shown(self) -> str:
        """How to speak of it: without query, without secrets."""
        if self.request.upload is not None:
            return f"the uploaded file {self.request.upload}"
        if self.request.feed is not None:
            return f"the feed {self.request.feed}"
        return shown_url(self.url or "")

    @property
    def digest(self) -> str:
        """Of what decides which records there are and how far a run has come; secrets are not in it."""
        request = self.request
        parts = [request.url, request.feed, request.path, request.upload, request.parameters, request.records]
        mark = request.incremental.model_dump(mode="json") if request.incremental else None
        return hashlib.sha256(json.dumps([*parts, mark], sort_keys=True).encode()).hexdigest()

    @property
    def rules(self) -> FetchRules:
        request = self.request
        return FetchRules(seconds=request.seconds, rate=request.rate, in_flight=request.in_flight)


def shown_url(url: str) -> str:
    """Scheme, host and path; the query may hold what nobody else should read."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def resolved(asked: SourceRequest | None, collection: Collection, feeds: Feeds) -> Source:
    """What is asked for, else the collection's own source. Raises `InvalidTarget` when there is none, or no such feed,
    or a feed's options make no sense."""
    if asked is None:
        asked = own_source(collection)
    if asked.feed is None:
        url = None if asked.url is None else with_query(asked.url, asked.parameters)
        return Source(asked, url)
    feed = feeds.feed(asked.feed)
    own = feed.options.get("parameters", {})  # may be secrets: part of the URL, not of the request
    if not isinstance(own, Mapping):
        raise InvalidTarget(f"The configured feed {asked.feed!r} makes no sense: `parameters` is no object.")
    request = _with_options(asked, {name: value for name, value in feed.options.items() if name != "parameters"})
    url = _joined(with_query(feed.url, own), request.path)
    return Source(request, with_query(url, request.parameters), feed.headers)


def own_source(collection: Collection) -> SourceRequest:
    """Raises `InvalidTarget` when it has none, or one that makes no sense."""
    if collection.source is None:
        raise InvalidTarget(
            f"The collection {collection.name!r} has no source of its own.",
            hint="Give `source`, or declare one with PUT /collections/NAME.",
        )
    try:
        return SourceRequest.model_validate(dict(collection.source))
    except ValidationError as error:
        raise _makes_no_sense(f"The source of the collection {collection.name!r}", error) from None


def _with_options(asked: SourceRequest, options: Mapping[str, Any]) -> SourceRequest:
    try:
        return SourceRequest.model_validate({**options, **asked.model_dump(exclude_unset=True)})
    except ValidationError as error:
        raise _makes_no_sense(f"The configured feed {asked.feed!r}", error) from None


def _makes_no_sense(what: str, error: ValidationError) -> FlexError:
    faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)]
    return InvalidTarget(f"{what} makes no sense: {'; '.join(faults[:5])}.", hint="Correct its declaration.")


def _joined(url: str, path: str | None) -> str:
    if not path:
        return url
    parts, (below, _, query) = urlsplit(url), path.partition("?")
    whole = parts.path.rstrip("/") + "/" + below.lstrip("/") if below else parts.path
    return urlunsplit((parts.scheme, parts.netloc, whole, "&".join(filter(None, (parts.query, query))), ""))


def with_query(url: str, parameters: Mapping[str, Any]) -> str:
    """The URL with these parameters set; others stay as they are, byte for byte."""
    if not parameters:
        return url
    parts = urlsplit(url)
    kept = [pair for pair in parts.query.split("&") if pair and unquote_plus(pair.partition("=")[0]) not in parameters]
    said = {name: str(value).lower() if isinstance(value, bool) else value for name, value in parameters.items()}
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "&".join([*kept, urlencode(said)]), ""))
