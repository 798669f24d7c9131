"""How sources are written down, and that no secret comes with them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from engines.errors import InvalidTarget
from handlers.collections import Collection, parse_collection
from handlers.sources import SourceField, SourceRequest, resolved, with_query
from handlers.supplies import Feed

SOURCE: TypeAdapter[SourceRequest] = TypeAdapter(SourceField)
SECRET = "hunter2hunter2hunter2"


class DictFeeds(dict[str, Feed]):
    def names(self) -> list[str]:
        return sorted(self)

    def feed(self, name: str) -> Feed:
        if name not in self:
            raise InvalidTarget(f"There is no feed {name!r}.")
        return self[name]


def collection(source: Any = None) -> Collection:
    document = {"connection": "db", "key": "id", "schema": {"properties": {"id": {"type": "integer"}}}}
    return parse_collection("things", document | ({"source": source} if source else {}))


def test_a_string_is_a_url_or_the_name_of_a_feed() -> None:
    assert SOURCE.validate_python("https://api.example.com/x").url == "https://api.example.com/x"
    assert SOURCE.validate_python("shop").feed == "shop"
    assert SOURCE.validate_python({"feed": "shop", "paginator": "cursor"}).paginator.style == "cursor"


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"url": "https://a.example/", "feed": "x"},
        {"url": "ftp://a.example/"},
        {"url": "https://"},
        {"url": "https://a.example:99999/"},
        {"url": "https://a.example/", "path": "x"},
        {"url": "https://a.example/", "headers": {"X": "y"}},
        {"feed": "x", "path": "https://elsewhere.example/"},
        {"feed": "x", "path": "//elsewhere.example/"},
        {"feed": "x", "path": "../other"},
        {"feed": "x", "storage": "y"},
        {"upload": "../../etc/passwd"},
        {"url": "https://a.example/", "paginator": "sideways"},
        {"url": "https://a.example/", "paginator": {"style": "page", "what": 1}},
    ],
)
def test_what_makes_no_sense_is_refused(source: Any) -> None:
    with pytest.raises(ValidationError):
        SOURCE.validate_python(source)


@pytest.mark.parametrize(
    "source",
    [
        f"https://ada:{SECRET}@a.example/",
        f"https://a.example/?api_key={SECRET}",
        f"https://a.example/?page=1&access_token={SECRET}",
        f"https://a.example/?key={SECRET}",
        {"url": "https://a.example/", "parameters": {"apikey": SECRET}},
        {"feed": "shop", "path": f"list?token={SECRET}"},
    ],
)
def test_a_secret_is_refused_without_being_repeated(source: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        SOURCE.validate_python(source)
    messages = [one["msg"] for one in caught.value.errors(include_input=False)]
    assert SECRET not in "".join(messages)
    assert any("feed" in message for message in messages)


def test_a_short_key_and_a_page_token_are_no_secrets() -> None:
    SOURCE.validate_python("https://a.example/?key=name&pageToken=abcdefghijklmnopqrstuvwxyz")


def test_a_feed_gives_its_place_its_headers_and_its_options() -> None:
    url = f"https://a.example/v1?key={SECRET}"
    options = {"records": "data.list", "rate": 5, "parameters": {"token": SECRET, "size": 10}}
    feeds = DictFeeds(shop=Feed(url, {"X-Key": SECRET}, options))
    source = resolved(SOURCE.validate_python({"feed": "shop", "path": "/list?a=b", "rate": 7}), collection(), feeds)
    assert source.url == f"https://a.example/v1/list?key={SECRET}&token={SECRET}&size=10&a=b"
    assert source.headers == {"X-Key": SECRET}
    assert (source.request.records, source.rules.rate) == ("data.list", 7)
    assert SECRET not in repr(source) + source.shown


def test_options_of_a_feed_that_make_no_sense_are_told() -> None:
    feeds = DictFeeds(shop=Feed("https://a.example/", {}, {"rate": "fast"}))
    with pytest.raises(InvalidTarget) as caught:
        resolved(SOURCE.validate_python("shop"), collection(), feeds)
    assert "rate" in caught.value.message


def test_a_collection_brings_its_own_source() -> None:
    own = resolved(None, collection({"url": "https://a.example/x", "parameters": {"b": True}}), DictFeeds())
    assert own.url == "https://a.example/x?b=true"
    with pytest.raises(InvalidTarget):
        resolved(None, collection(), DictFeeds())


def test_the_digest_tells_sources_apart_and_knows_no_secret() -> None:
    def digest(source: Any, **feeds: Feed) -> str:
        return resolved(SOURCE.validate_python(source), collection(), DictFeeds(feeds)).digest

    first, second = Feed("https://a.example/?key=1"), Feed("https://a.example/?key=2")
    assert digest("shop", shop=first) == digest("shop", shop=second)
    assert digest("https://a.example/1") != digest("https://a.example/2")
    assert digest({"url": "https://a.example/1", "rate": 1}) == digest("https://a.example/1")


@pytest.mark.parametrize(
    ("url", "parameters", "expected"),
    [
        ("https://a.example/x", {"page": 2}, "https://a.example/x?page=2"),
        ("https://a.example/x?page=1&q=a%20b&q=c", {"page": 2}, "https://a.example/x?q=a%20b&q=c&page=2"),
        ("https://a.example/x?%24skip=0", {"$skip": 10}, "https://a.example/x?%24skip=10"),
        ("https://a.example/x?a=1#part", {}, "https://a.example/x?a=1#part"),
    ],
)
def test_parameters_are_set_and_the_others_stay_as_they_are(url: str, parameters: Any, expected: str) -> None:
    assert with_query(url, parameters) == expected
