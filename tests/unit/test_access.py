"""Who gets in: tokens, sources that sign, and what neither may do."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from handlers.registry import handler_classes
from service.access import ADMIN, SIGNED_OPERATIONS, Access, InvalidSource, NotAuthenticated, Principal
from service.signatures import sign

TOKEN = "a token with spaces and ümläuts"
FIRST = "whsec_" + base64.b64encode(b"the first secret, 32 bytes long!").decode()
SECOND = "whsec_" + base64.b64encode(b"the second, to which one rotates").decode()
FOREIGN = "whsec_" + base64.b64encode(b"nobody has configured this one!!").decode()
AT = 1_700_000_000
BODY = b'{"connection": "shop"}'


@pytest.fixture
def access() -> Access:
    sources = {"n8n": f"standard:{FIRST} {SECOND}", "cron": f"standard:{SECOND}"}
    return Access(TOKEN, sources, replay_window=300, clock=lambda: AT)


def as_received(text: str) -> str:
    """A header's text the way aiohttp hands it on."""
    return text.encode().decode("utf-8", "surrogateescape")


def code_of(ask: Callable[[], object]) -> str:
    with pytest.raises(NotAuthenticated) as caught:
        ask()
    for secret in (TOKEN, FIRST, SECOND, FOREIGN):
        assert secret not in caught.value.detail
    return caught.value.code


def signed(secret: str, *, at: int = AT, message_id: str = "msg_1", body: bytes = BODY) -> CIMultiDict[str]:
    return CIMultiDict(
        {
            "Webhook-Id": message_id,
            "Webhook-Timestamp": str(at),
            "Webhook-Signature": sign([secret], message_id, at, body),
        }
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer {TOKEN}"},
        {"AUTHORIZATION": f"BEARER   {TOKEN}  "},
        {"X-API-Key": TOKEN},
        {"x-api-key": TOKEN, "Authorization": "Basic Zm9vOmJhcg=="},
    ],
)
def test_the_token_is_read_from_either_header(access: Access, headers: dict[str, str]) -> None:
    shown = CIMultiDict({name: as_received(value) for name, value in headers.items()})
    assert access.by_token(shown) is ADMIN
    assert access.expect_credentials(shown) is ADMIN


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN.replace(" ", "")},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {TOKEN}"},
        {"X-API-Key": "caf\udce9"},
        {"X-API-Key": "x" * 1_000_000},
    ],
)
def test_a_wrong_token_is_told_as_such(access: Access, headers: dict[str, str]) -> None:
    shown = CIMultiDict(headers)
    assert code_of(lambda: access.by_token(shown)) == "invalid_token"


def test_a_wrong_token_is_not_saved_by_a_good_signature(access: Access) -> None:
    shown = signed(FIRST)
    shown["Authorization"] = "Bearer wrong"
    assert code_of(lambda: access.expect_credentials(shown)) == "invalid_token"


def test_who_shows_nothing_is_refused_before_the_body_is_read(access: Access) -> None:
    assert access.by_token(CIMultiDict()) is None
    assert code_of(lambda: access.expect_credentials(CIMultiDict())) == "not_authenticated"
    assert code_of(access.refuse) == "not_authenticated"


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_one_header_of_a_signature_is_enough_to_be_heard_and_not_enough_to_get_in(access: Access, name: str) -> None:
    shown = CIMultiDict({name: "x"})
    assert access.expect_credentials(shown) is None
    assert code_of(lambda: access.by_signature(shown, BODY)) == "missing_signature"


def test_the_source_whose_secret_signed_is_found(access: Access) -> None:
    assert access.by_signature(signed(FIRST), BODY) == Principal("n8n", "source")
    only_cron = Access(TOKEN, {"n8n": f"standard:{FIRST}", "cron": f"standard:{SECOND}"}, clock=lambda: AT)
    assert only_cron.by_signature(signed(SECOND), BODY) == Principal("cron", "source")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (signed(FOREIGN), "bad_signature"),
        (signed(FIRST, body=BODY + b" "), "bad_signature"),
        (signed(FIRST, at=AT - 3600), "stale_signature"),
        (signed(FIRST, at=AT + 3600), "stale_signature"),
        (CIMultiDict({**signed(FIRST), "Webhook-Signature": "garbage"}), "malformed_signature"),
        (CIMultiDict({**signed(FIRST), "Webhook-Timestamp": "yesterday"}), "malformed_signature"),
    ],
)
def test_each_bad_signature_has_its_own_code(access: Access, headers: CIMultiDict[str], code: str) -> None:
    shown = CIMultiDict(headers)
    assert code_of(lambda: access.by_signature(shown, BODY)) == code


def test_without_sources_no_signature_is_good() -> None:
    access = Access(TOKEN, {}, clock=lambda: AT)
    assert code_of(lambda: access.by_signature(signed(FIRST), BODY)) == "bad_signature"


@pytest.mark.parametrize("token", ["", " ", "\n"])
def test_an_empty_token_is_refused_at_the_start(token: str) -> None:
    with pytest.raises(ValueError, match="token is empty"):
        Access(token, {})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n8n", FIRST),
        ("n8n", f"github:{FIRST}"),
        ("n8n", "standard:"),
        ("n8n", "standard: "),
        ("n8n", "standard:whsec_not-base64"),
        ("n8n", f"standard:{FIRST},{SECOND}"),
        ("../x", f"standard:{FIRST}"),
        ("n8n\n", f"standard:{FIRST}"),
    ],
)
def test_a_source_that_cannot_work_is_refused_without_its_secret(name: str, text: str) -> None:
    with pytest.raises(InvalidSource) as caught:
        Access(TOKEN, {name: text})
    assert FIRST not in str(caught.value) and "not-base64" not in str(caught.value)


def test_a_signature_admits_what_writes_nothing_of_the_users() -> None:
    source = Principal("n8n", "source")
    for operation, handler in handler_classes().items():
        assert ADMIN.may_ask_for(operation)
        assert source.may_ask_for(operation) is not handler.writes
    assert "restore" not in SIGNED_OPERATIONS


def test_a_source_cannot_speak_for_other_callers() -> None:
    source = Principal("n8n", "source")
    assert source.source == "/flexdb/n8n"
    for own in ("/flexdb/n8n", "/elsewhere", "https://example.org/flexdb/admin", "/flexdbx"):
        assert source.may_speak_for(own)
    for foreign in ("/flexdb", "/flexdb/admin", "/flexdb/cron", "/flexdb/n8n/x", "/flexdb/"):
        assert not source.may_speak_for(foreign)
        assert ADMIN.may_speak_for(foreign)


@given(
    headers=st.dictionaries(
        st.sampled_from(["Authorization", "X-API-Key", "webhook-id", "webhook-timestamp", "webhook-signature"]),
        st.text(st.characters(exclude_categories=())) | st.sampled_from(["Bearer x", f"{AT}", "v1,x", "msg_1"]),
    ),
    body=st.binary(),
)
def test_whatever_a_stranger_shows_is_an_answer(headers: dict[str, str], body: bytes) -> None:
    access = Access(TOKEN, {"n8n": f"standard:{FIRST}"}, clock=lambda: AT)
    shown = CIMultiDict({name: value.encode("utf-8", "replace").decode() for name, value in headers.items()})
    code_of(lambda: access.expect_credentials(shown) or access.by_signature(shown, body))


@pytest.mark.parametrize("name", ["admin", "schedules", "rabbitmq"])
def test_no_signer_may_bear_the_name_of_a_principal_of_our_own(name: str) -> None:
    with pytest.raises(InvalidSource, match="choose another"):
        Access("token", {name: "standard:whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
