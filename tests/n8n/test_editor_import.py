"""Every workflow by the editor's own "Import from file", in headless Chromium."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.cli.n8n.workflows import shipped_folder
from tests.acceptance.service_process import until
from tests.n8n.pair import SHIPPED
from tests.n8n.process import RunningN8n
from tests.servers import missing
from tools.chromium import ChromiumError, Page, browser


def saved_workflow(n8n: RunningN8n, workflow_id: str) -> dict[str, Any] | None:
    """What the editor saved by itself under the id it chose; None until it has."""
    reply = n8n.request("GET", f"/api/v1/workflows/{workflow_id}", None, {"X-N8N-API-KEY": n8n.api_key})
    return reply.json if reply.status == 200 and reply.json["nodes"] else None


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    try:
        async with browser(tmp_path / "chromium") as opened:
            yield opened
    except ChromiumError as error:
        missing(str(error))


async def chosen_and_shown(page: Page, path: Path, nodes: int) -> None:
    """A busy machine shows the button before it does anything: then it is pressed again."""
    for seconds in (20, 20, 60):
        await page.choose_file("[data-test-id=workflow-import-input]", path)
        with suppress(TimeoutError):
            await page.until(f"document.querySelectorAll('.vue-flow__node').length === {nodes}", seconds)
            return
    pytest.fail(f"the editor does not show {nodes} nodes of {path.name}")


@pytest.mark.parametrize("name", sorted(SHIPPED))
async def test_the_editor_takes_the_file_with_every_node_and_links_credentials_by_name(
    n8n: RunningN8n, page: Page, name: str
) -> None:
    shipped = SHIPPED[name]
    await page.open(f"{n8n.url}/workflow/new", width=1600, height=900, cookie=n8n.cookie)
    await page.until("document.querySelector('[data-test-id=workflow-import-input]') !== null")
    await chosen_and_shown(page, shipped_folder() / f"{name}.json", len(shipped["nodes"]))
    await page.until("location.pathname.startsWith('/workflow/') && !location.pathname.endsWith('/new')")
    workflow_id = (await page.evaluate("location.pathname")).rpartition("/")[2]
    saved = await asyncio.to_thread(until, lambda: saved_workflow(n8n, workflow_id))
    try:
        nodes = {node["name"]: node for node in saved["nodes"]}
        assert set(nodes) == {node["name"] for node in shipped["nodes"]}
        for node in shipped["nodes"]:
            for kind, credential in node.get("credentials", {}).items():
                linked = nodes[node["name"]]["credentials"][kind]
                assert linked["name"] == credential["name"]
                assert linked["id"]
    finally:
        n8n.call("DELETE", f"/workflows/{workflow_id}")
