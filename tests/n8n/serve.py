"""`python -m tests.n8n.serve FILE`: an n8n and a RabbitMQ that stay, for trying workflows one test at a time.

FILE tells the tests how to reach them, by FLEXDB_TEST_N8N=FILE; starting them takes longer than most tests. Ctrl-C ends
both.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.n8n.conftest import own_servers
from tools.n8n_install import install


def main(state: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that both are ended then, too
    with tempfile.TemporaryDirectory(prefix="flexdb-n8n-") as folder, own_servers(Path(folder), install()) as servers:
        state.write_text(json.dumps({"n8n": servers.n8n.state(), "rabbitmq_url": servers.rabbitmq_url}))
        state.chmod(0o600)
        sys.stdout.write(f"n8n on {servers.n8n.url}, known by {state}; Ctrl-C ends it\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(Path(sys.argv[1]))
