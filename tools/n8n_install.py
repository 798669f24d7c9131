"""Installs the pinned n8n that the tests run, into a cache outside the repository: `python -m tools.n8n_install`.

Prints where it is. The versions are those of `tests/n8n/package`; Node comes as a package too, so that the machine's
own may be of any version, but npm must be there, and a C++ compiler for the one module that is built. Running it twice
at once is safe, and what is there already is used as it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

NODE_VERSION = "24.21.0"
PACKAGE = Path(
    os.environ.get("FLEXDB_N8N_PACKAGE") or Path(__file__).parents[1] / "tests" / "n8n" / "package"
).absolute()
"""The folder with package.json and package-lock.json; another one for trying another version of n8n."""
ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}
FLAGS = ("--no-audit", "--no-fund", "--loglevel=error")


class InstallError(Exception):
    """The packages cannot be fetched or built; the message says which step ended how."""


@dataclass(frozen=True, slots=True)
class Installed:
    """Where n8n and the Node that runs it are."""

    folder: Path

    @property
    def node_home(self) -> Path:
        return self.folder / "node_modules" / _node_package()

    @property
    def node(self) -> Path:
        return self.node_home / "bin" / "node"

    @property
    def n8n(self) -> Path:
        """The program that `node` runs."""
        return self.folder / "n8n" / "node_modules" / "n8n" / "bin" / "n8n"

    @property
    def complete(self) -> bool:
        return (self.folder / "complete").exists()


def wanted_version() -> str:
    version: str = json.loads((PACKAGE / "package.json").read_text())["dependencies"]["n8n"]
    return version


def expected() -> Installed:
    """Where the pinned n8n is, or will be: `FLEXDB_N8N_CACHE`, else below the user's cache folder."""
    lock = hashlib.sha256((PACKAGE / "package-lock.json").read_bytes()).hexdigest()[:10]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(os.environ.get("FLEXDB_N8N_CACHE") or caches / "flexdb")
    return Installed(base.absolute() / f"n8n-{wanted_version()}-{lock}")


def install() -> Installed:
    """The pinned n8n, installed now unless it is there. Raises `InstallError`."""
    found = expected()
    found.folder.mkdir(parents=True, exist_ok=True)
    with (found.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second waits, and finds it complete
        if not found.complete:
            _fill(found)
            (found.folder / "complete").touch()
    return found


def _fill(found: Installed) -> None:
    """About three minutes on two cores, and 2.2 GB."""
    npm = shutil.which("npm")
    if npm is None:
        raise InstallError("npm is not installed; with it comes all else")
    (found.folder / "package.json").write_text('{"private": true}\n')
    _run([npm, "install", f"{_node_package()}@{NODE_VERSION}", *FLAGS], found.folder, {})
    place = found.folder / "n8n"
    place.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(PACKAGE / name, place / name)
    path = {"PATH": f"{found.node.parent}{os.pathsep}{os.environ['PATH']}"}
    # No scripts: a Kafka client would download and build its library. No peers: npm would ponder them for minutes.
    _run([npm, "install", "--ignore-scripts", "--legacy-peer-deps", "--omit=dev", *FLAGS], place, path)
    _build_sqlite(found, Path(npm), path)


def _build_sqlite(found: Installed, npm: Path, path: dict[str, str]) -> None:
    """The one module that must be built; its sources lie in the package, Node's headers in Node's."""
    gyp = npm.resolve().parents[1] / "node_modules" / "node-gyp" / "bin" / "node-gyp.js"
    if not gyp.exists():
        raise InstallError(f"npm comes without node-gyp: {gyp} is not there")
    module = found.folder / "n8n" / "node_modules" / "sqlite3"
    flags = {"JOBS": str(os.cpu_count() or 1), "CFLAGS": "-O1", "npm_config_nodedir": str(found.node_home)}
    _run([str(found.node), str(gyp), "rebuild", f"--nodedir={found.node_home}"], module, path | flags)
    _run([str(found.node), "-e", 'require("sqlite3"); require("isolated-vm")'], found.folder / "n8n", path)


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-1500:]
        raise InstallError(f"`{' '.join(command)}` ended with {done.returncode}:\n{said}")
    sys.stderr.write(f"n8n: {Path(command[0]).name} {command[1]} took {time.monotonic() - began:.0f} s\n")


def _node_package() -> str:
    try:
        return f"node-linux-{ARCHITECTURES[platform.machine()]}"
    except KeyError:
        raise InstallError(f"there is no Node package for {platform.machine()}") from None


def main() -> int:
    try:
        found = install()
    except (InstallError, OSError) as error:
        sys.stderr.write(f"n8n cannot be installed: {error}\n")
        return 1
    sys.stdout.write(f"{found.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
