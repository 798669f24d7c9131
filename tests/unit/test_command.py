"""Running client tools: their output, their end, and that none outlives the service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from engines.command import (
    GRACE_SECONDS,
    STDERR_BYTES,
    TETHER,
    Command,
    ToolInput,
    ToolOutput,
    answer,
    carry_out,
    conversing,
    feeding,
    reading,
    redact,
)
from engines.errors import Stopped, StorageFull, ToolFailed
from engines.run import Run, StopReason

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("job", 1, tmp_path)


def shell(script: str, *secrets: str, writes_into: Path | None = None, **environment: str) -> Command:
    return Command(Path("/bin/sh"), ("-c", script), environment, secrets, writes_into)


def eventually(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def everything(command: Command, run: Run) -> bytes:
    with reading(command, run) as output:
        return b"".join(output.chunks())


def running_with(mark: str) -> list[psutil.Process]:
    """Processes whose command line holds the mark, zombies left out."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if any(mark in part for part in line) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@pytest.fixture
def mark() -> Iterator[str]:
    """A word for command lines, unique to the test; whatever bears it at the end is ended."""
    word = f"flexdbmark{os.getpid()}x{time.monotonic_ns()}"
    yield word
    for process in running_with(word):
        process.kill()


def test_output_is_given_whole_and_in_order(run: Run) -> None:
    assert everything(shell("seq 1 200000"), run) == "".join(f"{n}\n" for n in range(1, 200001)).encode()


def test_a_tool_sees_only_the_environment_it_is_given(run: Run) -> None:
    os.environ["FLEXDB_TOKEN_OF_TEST"] = "hush"
    try:
        seen = everything(Command(Path("/usr/bin/env"), (), {"PGPASSWORD": "p w"}), run).decode().splitlines()
    finally:
        del os.environ["FLEXDB_TOKEN_OF_TEST"]
    names = {line.partition("=")[0] for line in seen}
    assert "PGPASSWORD=p w" in seen and "LC_ALL=C" in seen
    assert names <= {"PATH", "HOME", "TMPDIR", "LC_ALL", "PGPASSWORD", "SSL_CERT_FILE", "SSL_CERT_DIR"}


def test_arguments_arrive_as_they_are(run: Run) -> None:
    odd = ("a b", '"; drop', "$(id)", "-x", "ü\n", "*")
    seen = everything(Command(Path("/usr/bin/printf"), ("%s\\0", *odd)), run)
    assert seen.decode().split("\0")[:-1] == list(odd)


def test_exit_1_after_good_output_is_a_failure(run: Run) -> None:
    with (
        pytest.raises(ToolFailed) as failed,
        reading(shell("echo data; echo sorry >&2; exit 1"), run) as output,
    ):
        assert b"".join(output.chunks()) == b"data\n"
    assert failed.value.details == {"tool": "sh", "exit_code": 1, "stderr": "sorry"}
    assert "sorry" in failed.value.message


def test_a_tool_killed_by_a_signal_is_told_as_such(run: Run) -> None:
    with pytest.raises(ToolFailed, match="signal SIGKILL") as failed:
        carry_out(shell("kill -9 $$"), run)
    assert failed.value.details["exit_code"] == -9


def test_a_program_that_is_not_there_is_a_failure(run: Run) -> None:
    with pytest.raises(ToolFailed, match="No such file"):
        carry_out(Command(Path("/nonexistent/pg_dump"), ()), run)


def test_an_argument_no_process_can_have_is_a_failure(run: Run) -> None:
    with pytest.raises(ToolFailed, match="cannot be started"):
        carry_out(shell("true \0"), run)


def test_output_left_unread_is_never_taken_for_success(run: Run) -> None:
    with pytest.raises(ToolFailed), reading(shell("seq 1 1000000"), run) as output:
        output.read(10)


def test_100_mb_of_messages_neither_block_the_tool_nor_fill_memory(run: Run) -> None:
    script = "head -c 100000000 /dev/zero | tr '\\0' x >&2; echo out; echo; echo last words >&2; exit 3"
    before = psutil.Process().memory_info().rss
    with pytest.raises(ToolFailed) as failed, reading(shell(script), run) as output:
        assert b"".join(output.chunks()) == b"out\n\n"
    assert failed.value.details["stderr"].endswith("last words")
    assert len(failed.value.details["stderr"]) <= STDERR_BYTES
    assert psutil.Process().memory_info().rss - before < 50_000_000


def test_secrets_are_left_out_of_what_is_told(run: Run) -> None:
    secret = "p/ss @:%"
    with pytest.raises(ToolFailed) as failed:
        carry_out(shell('echo "$W" "p%2Fss%20%40%3A%25" >&2; exit 1', secret, W=secret), run)
    told = f"{failed.value.message} {failed.value.details}"
    assert secret not in told and "p%2Fss" not in told and "***" in told


@pytest.mark.parametrize(
    "text",
    ["postgresql://u:hush@h/d", "password=hush", "password = 'hu\\'sh hush'", "x PASSWORD=hush&y"],
)
def test_whatever_looks_like_credentials_is_redacted(text: str) -> None:
    assert "hush" not in redact(text)


def test_a_full_disk_of_the_tools_own_is_storage_full(run: Run, tmp_path: Path) -> None:
    script = "echo 'pg_dump: error: could not write to file: No space left on device' >&2; exit 1"
    with pytest.raises(StorageFull):
        carry_out(shell(script, writes_into=tmp_path), run)
    with pytest.raises(ToolFailed):
        carry_out(shell(script), run)
    server = "echo 'pg_restore: error: ERROR:  could not extend file: No space left on device' >&2; exit 1"
    with pytest.raises(ToolFailed):
        carry_out(shell(server, writes_into=tmp_path), run)


def test_a_tool_takes_what_it_is_fed(run: Run, tmp_path: Path) -> None:
    chunks = [b"a" * 300_000, b"b" * 300_000, b""]
    with feeding(shell(f"cat > {tmp_path}/got"), run) as into:
        into.take(lambda _: chunks.pop(0))
    assert (tmp_path / "got").read_bytes() == b"a" * 300_000 + b"b" * 300_000


def test_a_source_is_read_to_its_end_although_the_tool_has_ended(run: Run) -> None:
    chunks = [b"x" * 100_000] * 50 + [b""]
    with (
        pytest.raises(ToolFailed, match="had enough"),
        feeding(shell("echo had enough >&2; exit 1"), run) as into,
    ):
        into.take(lambda _: chunks.pop(0))
    assert chunks == []


def test_a_failing_source_kills_the_tool_before_it_sees_an_end(run: Run, tmp_path: Path) -> None:
    """A tool that commits at the end of its input must not be told that a broken input has ended."""

    def broken(_: int) -> bytes:
        raise OSError("source broke")

    with (
        pytest.raises(OSError, match="source broke"),
        feeding(shell(f"trap '' TERM; cat; touch {tmp_path}/saw_end"), run) as into,
    ):
        into.take(broken)
    assert not (tmp_path / "saw_end").exists()


def test_writing_to_a_tool_that_ended_tells_its_last_words(run: Run) -> None:
    with pytest.raises(ToolFailed, match="no more"), feeding(shell("echo no more >&2; exit 2"), run) as into:
        _write_for_ever(into)


def _write_for_ever(into: ToolInput) -> None:
    while True:
        into.write(b"x" * 65536)


def test_a_conversation(run: Run) -> None:
    with conversing(shell("read a; echo got $a; read b; test $b = end"), run) as (into, answers):
        into.write(b"one\n")
        assert answers.read() == b"got one\n"
        into.write(b"end\n")


def read_and_stop(output: ToolOutput, run: Run) -> None:
    for number, _ in enumerate(output.chunks()):
        if number == 3:
            threading.Thread(target=run.stop.request, args=(StopReason.CANCEL,)).start()


def test_a_stop_ends_a_tool_in_the_middle_of_its_output(run: Run, mark: str) -> None:
    with pytest.raises(Stopped) as stopped, reading(shell(f": {mark}; yes"), run) as output:
        read_and_stop(output, run)
    assert stopped.value.reason == StopReason.CANCEL
    assert not running_with(mark)


def test_a_stop_ends_a_tool_that_is_silent_and_deaf_to_sigterm(run: Run, mark: str) -> None:
    began = time.monotonic()
    script = f"trap '' TERM; : {mark}; while :; do sleep 1; done"
    threading.Timer(0.3, run.stop.request, args=(StopReason.DEADLINE,)).start()
    with pytest.raises(Stopped), reading(shell(script), run) as output:
        output.read()
    assert time.monotonic() - began < GRACE_SECONDS + 5
    assert not running_with(mark)


def test_a_stop_asked_for_before_starts_nothing(run: Run, tmp_path: Path) -> None:
    run.stop.request(StopReason.SHUTDOWN)
    with pytest.raises(Stopped):
        carry_out(shell(f"touch {tmp_path}/started"), run)
    assert not (tmp_path / "started").exists()


def test_grandchildren_left_behind_are_ended_with_the_tool(run: Run, mark: str) -> None:
    carry_out(shell(f"(sh -c ': {mark}; sleep 100' >/dev/null 2>&1 &) ; exit 0"), run)
    eventually(lambda: not running_with(mark))


def test_ticks_come_while_a_tool_runs(run: Run) -> None:
    ticks: list[int] = []
    carry_out(shell("sleep 1"), run, lambda: ticks.append(1))
    assert len(ticks) >= 2


def test_a_tick_that_raises_ends_the_tool(run: Run, mark: str) -> None:
    def full() -> None:
        raise StorageFull("no space")

    with pytest.raises(StorageFull):
        carry_out(shell(f": {mark}; sleep 100; :"), run, full)
    assert not running_with(mark)


def test_a_small_call_answers() -> None:
    assert answer(shell("echo 15.3")) == "15.3\n"


def test_a_small_call_that_takes_too_long_is_ended(mark: str) -> None:
    with pytest.raises(ToolFailed, match="did not answer within"):
        answer(shell(f": {mark}; sleep 100; :"), seconds=0.3)
    assert not running_with(mark)


SERVICE = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from engines.command import Command, carry_out
from engines.run import Run
carry_out(Command(Path("/bin/sh"), ("-c", {script!r})), Run("job", 1, Path("/tmp")))
"""


def start_service(mark: str) -> subprocess.Popen[bytes]:
    """A process that runs a tool with two workers of its own, one of them deaf to SIGTERM."""
    script = f"sh -c ': {mark} w1; sleep 100; :' & sh -c 'trap \"\" TERM; : {mark} w2; sleep 100; :' & : {mark}; wait"
    service = subprocess.Popen([sys.executable, "-c", SERVICE.format(root=str(ROOT), script=script)])
    eventually(lambda: len([p for p in running_with(mark) if p.name() == "sh"]) >= 3)
    return service


def test_kill_9_of_the_service_ends_the_tool_and_its_grandchildren(mark: str) -> None:
    service = start_service(mark)
    service.send_signal(signal.SIGKILL)
    service.wait()
    eventually(lambda: not running_with(mark))


def test_kill_9_of_the_guard_ends_the_tool_and_the_service_sees_a_failure(mark: str) -> None:
    service = start_service(mark)
    guard = next(p for p in running_with(mark) if any("tether.py" in part for part in p.cmdline()))
    guard.kill()
    assert service.wait(timeout=10) != 0
    eventually(lambda: not running_with(mark))


def test_kill_9_of_the_guard_alone_ends_the_tool(mark: str) -> None:
    """Even where nobody is left to clean up after it."""
    reading_end, writing_end = os.pipe()
    argv = [sys.executable, "-S", "-E", "-I", str(TETHER), str(reading_end), "/bin/sh", "-c", f": {mark}; sleep 100; :"]
    guard = subprocess.Popen(argv, pass_fds=(reading_end,), start_new_session=True)
    eventually(lambda: any(process.name() == "sh" for process in running_with(mark)))
    guard.kill()
    guard.wait()
    eventually(lambda: not running_with(mark))
    os.close(reading_end)
    os.close(writing_end)


def test_no_process_and_no_descriptor_is_left_behind(run: Run) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    carry_out(shell("true"), run)
    before, children = descriptors(), psutil.Process().children()
    for script in ("true", "exit 1", "yes | head -c 1000000"):
        with suppress(ToolFailed):
            everything(shell(script), run)
    assert descriptors() == before
    assert psutil.Process().children() == children
