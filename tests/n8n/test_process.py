"""The n8n that tests start: it is gone when they are, even when somebody kills them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from tests.acceptance.service_process import ROOT, until
from tests.n8n.process import RunningN8n
from tools.n8n_install import Installed

STARTS_ONE = """
import sys
from pathlib import Path
from tests.n8n.process import RunningN8n
from tools.n8n_install import Installed
RunningN8n(Path(sys.argv[1]), Installed(Path(sys.argv[2]))).start()
print("ready", flush=True)
sys.stdin.read()
"""


def alive_in(folder: Path) -> list[psutil.Process]:
    """The processes of the n8n that keeps all it has in this folder, its task runner among them."""

    def is_of_it(process: psutil.Process) -> bool:
        try:
            user_folder: str = process.environ()["N8N_USER_FOLDER"]
            return process.status() != psutil.STATUS_ZOMBIE and user_folder == str(folder)
        except (psutil.Error, KeyError):
            return False

    return [process for process in psutil.process_iter() if is_of_it(process)]


def test_an_n8n_ends_with_whoever_started_it_even_by_kill_9(installed_n8n: Installed, tmp_path: Path) -> None:
    runner = subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE, str(tmp_path / "n8n"), str(installed_n8n.folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert runner.stdout is not None and runner.stdout.readline() == b"ready\n"
        assert alive_in(tmp_path / "n8n")
        runner.kill()
        runner.wait()
        until(lambda: not alive_in(tmp_path / "n8n"))
    finally:
        runner.kill()
        runner.communicate()


def test_an_n8n_that_is_stopped_ends_by_itself_and_one_that_is_killed_leaves_nothing(
    installed_n8n: Installed, tmp_path: Path
) -> None:
    n8n = RunningN8n(tmp_path / "n8n", installed_n8n)
    try:
        n8n.start().stop()
        assert "Received SIGTERM" in n8n.last_words()
        until(lambda: not alive_in(n8n.folder))
        n8n.start().kill()
        until(lambda: not alive_in(n8n.folder))
    finally:
        n8n.close()
