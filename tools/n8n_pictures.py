"""Takes a picture of every shipped workflow's canvas: `python -m tools.n8n_pictures [NAME…]`.

n8n is started with the workflows in it, its editor is opened in headless Chromium (Debian's `chromium`), and what the
canvas shows is written to `n8n_workflows/pictures/NAME.webp`.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import tempfile
from pathlib import Path
from typing import Any

from service.cli.n8n.workflows import Workflow, read_workflows, shipped_folder
from tests.n8n.process import RunningN8n
from tools.chromium import Page, browser
from tools.n8n_install import install

PICTURES = shipped_folder() / "pictures"
WIDTH = 1800
MARGIN = 40
NODE = 100
QUALITY = 62
READY = "document.querySelectorAll('.vue-flow__node').length >= {nodes}"
ALONE = """
(() => {
  const canvas = document.querySelector('.vue-flow');
  const style = document.createElement('style');
  style.textContent = '.vue-flow__panel, .el-notification { display: none !important }';
  document.head.append(style);
  for (let element = canvas; element !== document.body; element = element.parentElement) {
    for (const other of element.parentElement.children) if (other !== element) other.style.display = 'none';
    element.style.cssText += ';position:fixed !important;inset:0 !important;width:100vw !important;'
      + 'height:100vh !important;max-width:none !important;margin:0 !important;z-index:1';
  }
})()
"""


def extent(workflow: Workflow) -> tuple[float, float]:
    """Width and height of all that lies on the canvas, with a margin."""
    boxes = [_box(node) for node in workflow["nodes"]]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    return right - left + 2 * MARGIN, bottom - top + 2 * MARGIN


def _box(node: dict[str, Any]) -> tuple[float, float, float, float]:
    x, y = node["position"]
    size = node["parameters"]
    note = node["type"].endswith("stickyNote")
    return x, y, x + (size["width"] if note else NODE), y + (size["height"] if note else NODE + 40)


async def take(page: Page, n8n: RunningN8n, workflow: Workflow, workflow_id: str) -> bytes:
    """The canvas with everything on it, as WebP."""
    wide, high = extent(workflow)
    height = max(500, round(WIDTH * high / wide))
    await page.open(f"{n8n.url}/workflow/{workflow_id}", width=WIDTH, height=height, cookie=n8n.cookie)
    await page.until(READY.format(nodes=len(workflow["nodes"])))
    await page.evaluate(ALONE)
    await asyncio.sleep(1)
    await page.press("1")  # the editor's key for: show everything
    await asyncio.sleep(2)
    shot = await page.send("Page.captureScreenshot", format="webp", quality=QUALITY)
    return base64.b64decode(shot["data"])


async def take_all(n8n: RunningN8n, names: list[str], folder: Path) -> None:
    shipped = read_workflows(shipped_folder())
    PICTURES.mkdir(exist_ok=True)
    async with browser(folder) as page:
        for chosen in names or shipped:
            picture = await take(page, n8n, shipped[chosen], n8n.create(shipped[chosen]))
            (PICTURES / f"{chosen}.webp").write_bytes(picture)
            sys.stdout.write(f"{chosen}.webp  {len(picture) / 1000:.0f} kB\n")


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="flexdb-pictures-") as folder:
        n8n = RunningN8n(Path(folder) / "n8n", install())
        try:
            asyncio.run(take_all(n8n.start().own(), names, Path(folder) / "chromium"))
        finally:
            n8n.close()


if __name__ == "__main__":
    main(sys.argv[1:])
