"""Headless Chromium, driven by its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class ChromiumError(Exception):
    """Chromium is not installed, or did not start."""


class Page:
    """One page of the browser, over its DevTools socket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = count(1)

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its result; events that come between are passed over."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json(timeout=60)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    async def open(self, url: str, *, width: int, height: int, cookie: str = "") -> None:
        """Go there in a window of this size, with a cookie `name=value` of that place."""
        if cookie:
            name, _, value = cookie.partition("=")
            await self.send("Network.setCookie", name=name, value=value, url=url)
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await self.send("Page.navigate", url=url)

    async def choose_file(self, selector: str, path: Path) -> None:
        """What a user does with a file input's dialog."""
        document = await self.send("DOM.getDocument")
        found = await self.send("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self.send("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(path)])

    async def evaluate(self, script: str) -> Any:
        found = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    async def until(self, script: str, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while not await self.evaluate(script):  # noqa: ASYNC110 because it is the page that changes
                await asyncio.sleep(0.2)

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" else {}
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, code=f"Digit{key}", **text)


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    """A page of a new Chromium that keeps everything below `folder`. Raises `ChromiumError`."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise ChromiumError("Chromium is not installed: apt-get install chromium")
    process = await asyncio.create_subprocess_exec(
        program, *FLAGS, f"--user-data-dir={folder}", "about:blank",
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = await _port_told(process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                (target,) = [found for found in await answer.json() if found["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.terminate()
        await process.wait()


async def _port_told(process: asyncio.subprocess.Process) -> str:
    if process.stderr is not None:
        async for line in process.stderr:
            if found := re.search(rb"ws://127\.0\.0\.1:(\d+)/", line):
                return found[1].decode()
    raise ChromiumError("Chromium ended before it told its port")
