"""Sources of records from settings: what is taken, what is told, and that no secret is in what is told."""

from __future__ import annotations

import json

import pytest

from engines.errors import InvalidTarget
from service.feeds import NamedFeeds


def test_a_url_alone_is_a_feed() -> None:
    feed = NamedFeeds({"shop": " https://shop.example.com/api?key=s3cret "}).feed("shop")
    assert (feed.url, dict(feed.headers), dict(feed.options)) == ("https://shop.example.com/api?key=s3cret", {}, {})


def test_json_brings_headers_and_options() -> None:
    value = {"url": "http://shop:8000/c", "headers": {"X-Key": "s3cret"}, "paginator": {"type": "page"}, "rate": 5}
    feed = NamedFeeds({"shop": json.dumps(value)}).feed("shop")
    assert feed.url == "http://shop:8000/c"
    assert feed.headers == {"X-Key": "s3cret"}
    assert feed.options == {"paginator": {"type": "page"}, "rate": 5}
    assert "s3cret" not in repr(feed)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ('{"url": "http://s3cret', "JSON"),
        ('{"uri": "http://s3cret"}', "`url`"),
        ('{"url": 5}', "`url`"),
        ("ftp://s3cret/x", "http://"),
        ("s3cret", "http://"),
        ("http:///s3cret", "http://"),
        ("http://shop:s3cret/", "http://"),
        ("http://[s3cret/", "http://"),
        ("http://shop/s3cret é", "ASCII"),
        ('{"url": "http://shop/", "headers": ["s3cret"]}', "`headers`"),
        ('{"url": "http://shop/", "headers": {"X y": "s3cret"}}', "`headers`"),
        ('{"url": "http://shop/", "headers": {"X-Key": "s3cret\\r\\nHost: other"}}', "X-Key"),
        ('{"url": "http://shop/", "headers": {"X-Key": 5}}', "X-Key"),
        ('{"url": "http://shop/", "headers": {"Host": "s3cret"}}', "Host"),
    ],
)
def test_an_unusable_feed_is_told_without_its_secret(value: str, told: str) -> None:
    feeds = NamedFeeds({"shop": value, "good": "http://good/"})
    with pytest.raises(InvalidTarget) as raised:
        feeds.feed("shop")
    message = raised.value.message
    assert "'shop'" in message
    assert told in message
    assert "s3cret" not in message + raised.value.hint + feeds.faults["shop"]
    assert raised.value.__cause__ is None
    assert feeds.names() == ["good", "shop"]
    assert feeds.feed("good").url == "http://good/"


def test_an_unknown_feed_is_told_with_those_there_are() -> None:
    with pytest.raises(InvalidTarget) as raised:
        NamedFeeds({"shop": "http://shop/"}).feed("stop")
    assert "'stop'" in raised.value.message
    assert "shop" in raised.value.message
