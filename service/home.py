"""The folder FLEXDB_HOME: what the first start makes in it, and where each thing lies."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

from engines.durability import make_folder, sync


class HomeUnusable(Exception):
    """The folder cannot be made or written to; the message says what to do."""


class Home:
    """Paths below FLEXDB_HOME. `prepare` may be called at every start; what exists is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = folder / "ledger.sqlite"
        self.storage = folder / "storage"
        self.work = folder / "work"
        self.token = folder / "token"
        self.webhook_secret = folder / "webhook_secret"
        self.demo_folder = folder / "demo"
        self.demo = self.demo_folder / "shop.sqlite"

    def prepare(self) -> None:
        """Make the folders, mode 0700. Raises `HomeUnusable`."""
        try:
            for folder in (self.folder, self.storage, self.work):
                make_folder(folder)
            probe = self.folder / f".probe-{secrets.token_hex(4)}"
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError as error:
            raise HomeUnusable(
                f"FLEXDB_HOME {self.folder} cannot be written to ({error.strerror}). "
                "Give this user the folder, or set FLEXDB_HOME to another one."
            ) from error

    def kept_secret(self, path: Path, make: str) -> tuple[str, bool]:
        """The secret in `path` and whether it was made now; mode 0600, written whole or not at all."""
        try:
            return path.read_text().strip(), False
        except FileNotFoundError:
            pass
        fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(make + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        sync(path.parent)
        return make, True


def new_token() -> str:
    return secrets.token_urlsafe(32)


def new_webhook_secret() -> str:
    """`whsec_` and 32 random bytes in base64, as Standard Webhooks writes secrets."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
