"""Signatures by Standard Webhooks: the known vector, the reference library both ways, and every odd header."""

from __future__ import annotations

import base64
import json
import secrets
from datetime import UTC, datetime

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from service.signatures import SignatureFault, SignatureRefused, decode_secret, sign, verify

# The example of the specification, https://github.com/standard-webhooks/standard-webhooks
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
STAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = "whsec_" + base64.b64encode(b"x" * 32).decode()


def fault(
    signature: str | None = SIGNATURE,
    *,
    message_id: str | None = MESSAGE_ID,
    stamp: str | None = str(STAMP),
    body: bytes = BODY,
    now: float = STAMP,
    keys: tuple[str, ...] = (SECRET,),
) -> SignatureFault | None:
    """What `verify` refuses it for; None when it does not."""
    try:
        verify(map(decode_secret, keys), message_id, stamp, signature, body, now=now, tolerance=300)
    except SignatureRefused as refused:
        return refused.fault
    return None


def test_the_known_vector_is_made_and_accepted() -> None:
    assert sign([SECRET], MESSAGE_ID, STAMP, BODY) == SIGNATURE
    assert fault() is None


def test_what_we_sign_the_reference_library_accepts() -> None:
    body = json.dumps({"type": "backup.completed", "data": "żółw"}, ensure_ascii=False).encode()
    now = int(datetime.now(UTC).timestamp())
    headers = {
        "webhook-id": "job/terminal",
        "webhook-timestamp": str(now),
        "webhook-signature": sign([OTHER, SECRET], "job/terminal", now, body),
    }
    assert standardwebhooks.Webhook(SECRET).verify(body, headers)["data"] == "żółw"


def test_what_the_reference_library_signs_we_accept() -> None:
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    at = datetime.now(UTC)
    made = standardwebhooks.Webhook(secret).sign(MESSAGE_ID, at, BODY.decode())
    assert fault(made, stamp=str(int(at.timestamp())), now=at.timestamp(), keys=(OTHER, secret)) is None


def test_any_of_several_signatures_by_any_of_several_secrets_will_do() -> None:
    both = sign([OTHER, SECRET], MESSAGE_ID, STAMP, BODY)
    assert fault(both) is None
    assert fault(both, keys=(OTHER,)) is None
    assert fault(SIGNATURE, keys=(OTHER, SECRET)) is None
    assert fault(SIGNATURE, keys=(OTHER,)) is SignatureFault.MISMATCH


@pytest.mark.parametrize("junk", ["garbage", "v1", "v1,", "v1,a,b", ",", "v2,x", "v1a,AAAA", "v1,\udcff", "  "])
def test_junk_beside_a_good_signature_is_passed_over(junk: str) -> None:
    assert fault(f"{junk} {SIGNATURE}") is None
    assert fault(f" {SIGNATURE}  {junk} ") is None
    assert fault(junk) in (SignatureFault.MALFORMED, SignatureFault.MISMATCH)


def test_the_asymmetric_scheme_is_not_mistaken_for_ours() -> None:
    assert fault(SIGNATURE.replace("v1,", "v1a,")) is SignatureFault.MALFORMED


def test_each_missing_header_is_told() -> None:
    assert fault(None) is SignatureFault.MISSING
    assert fault(message_id=None) is SignatureFault.MISSING
    assert fault(stamp=None) is SignatureFault.MISSING
    assert fault("") is SignatureFault.MISSING


@pytest.mark.parametrize(
    "stamp", ["soon", "1614265330.0", "-1614265330", "+1614265330", "0x1", "\uff11\uff12", "9" * 400, "1 "]
)
def test_a_timestamp_that_is_no_whole_number_is_malformed(stamp: str) -> None:
    assert fault(stamp=stamp) is SignatureFault.MALFORMED


@pytest.mark.parametrize(
    ("off", "found"), [(299, None), (-299, None), (301, "stale"), (-301, "stale"), (3600, "stale")]
)
def test_a_timestamp_is_taken_within_the_window_both_ways(off: float, found: str | None) -> None:
    assert fault(now=STAMP + off) is (SignatureFault.STALE if found else None)


def test_id_timestamp_and_every_byte_of_the_body_are_signed() -> None:
    assert fault(message_id="msg_other") is SignatureFault.MISMATCH
    assert fault(stamp=str(STAMP + 1)) is SignatureFault.MISMATCH
    assert fault(body=BODY + b" ") is SignatureFault.MISMATCH


def test_a_body_that_is_not_text_can_be_signed() -> None:
    body = bytes(range(256))
    assert fault(sign([SECRET], "m", STAMP, body), message_id="m", body=body) is None


@given(st.text(), st.text(), st.text(), st.binary())
def test_no_header_makes_it_raise_anything_else(message_id: str, stamp: str, signature: str, body: bytes) -> None:
    assert fault(signature, message_id=message_id, stamp=stamp, body=body) is not None


@pytest.mark.parametrize("secret", ["whsec_***", "whsec_", "", "whsec_AAA", "whsec_żółw"])
def test_a_secret_that_is_not_base64_is_refused_without_being_quoted(secret: str) -> None:
    with pytest.raises(ValueError) as refused:
        decode_secret(secret)
    assert not secret or secret not in str(refused.value) or secret == "whsec_"
