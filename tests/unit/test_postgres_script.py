"""What of pg_restore's script psql gets to see."""

from __future__ import annotations

import pytest

from engines.errors import ToolFailed
from engines.postgres.load import END_BYTES, SILENCE, Script

HEAD = b"--\nBEGIN;\n\nSET lock_timeout = 0;\nSET transaction_timeout = 0;\nSET client_encoding = 'UTF8';\n"
ROWS = b"COPY public.t (line) FROM stdin;\nSET transaction_timeout = 0;\nCOMMIT;\n\\.\n\n"
END = b"COMMIT;\n\n--\n-- dump complete\n--\n\n\\unrestrict x\n"


class Recorder:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes, /) -> None:
        self.data += data


def passed_on(script: bytes, size: int, *, without_setting: bool) -> bytes:
    recorder = Recorder()
    chunks = [script[start : start + size] for start in range(0, len(script), size)]
    Script(recorder, without_setting).copy(lambda: chunks.pop(0) if chunks else b"", lambda: None)
    assert recorder.data.startswith(SILENCE)
    return recorder.data.removeprefix(SILENCE)


@pytest.mark.parametrize("size", [1, 7, 1000, END_BYTES, 1 << 20])
@pytest.mark.parametrize("filling", [0, 5_000, 3 * END_BYTES])
def test_the_setting_and_the_last_commit_go_and_rows_like_them_stay(size: int, filling: int) -> None:
    rows = ROWS + b"x" * filling + b"\n"
    script = HEAD + rows + END
    assert passed_on(script, size, without_setting=True) == (
        HEAD.replace(b"SET transaction_timeout = 0;\n", b"") + rows + END.removeprefix(b"COMMIT;\n")
    )
    assert passed_on(script, size, without_setting=False) == HEAD + rows + END.removeprefix(b"COMMIT;\n")


def test_rows_stay_where_the_head_has_no_such_setting() -> None:
    head = HEAD.replace(b"SET transaction_timeout = 0;\n", b"")
    assert passed_on(head + ROWS + END, 100, without_setting=True) == head + ROWS + END.removeprefix(b"COMMIT;\n")


def test_a_script_without_its_commit_is_refused() -> None:
    with pytest.raises(ToolFailed):
        passed_on(HEAD, 100, without_setting=True)
