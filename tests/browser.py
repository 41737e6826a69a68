"""A headless Chromium that a test steers, by its DevTools protocol."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, websocket_connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--hide-scrollbars", "--remote-debugging-port=0", "--remote-allow-origins=*",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no other host
]  # fmt: skip


class Tab:
    """A page in the browser."""

    def __init__(self, socket: WebSocketClientConnection):
        self.socket, self.numbers, self.told = socket, count(1), list[str]()

    async def call(self, method: str, **parameters: Any) -> Any:
        number = next(self.numbers)
        await self.socket.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(await self.socket.read_message())
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.told.append(json.dumps(answer["params"]))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    async def run(self, script: str) -> Any:
        """What an expression gives, awaited."""
        found = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str, seconds: float = 20) -> Any:
        """Wait for an expression to be true."""
        end = time.monotonic() + seconds
        while not (found := await self.run(script)):
            assert time.monotonic() < end, f"{script}: {found}\n{self.told}"
        return found

    async def look(self, width: int, height: int = 900, scheme: str = "light") -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def open(self, address: str) -> None:
        await self.call("Page.navigate", url=address)
        await self.until("document.readyState === 'complete'")

    async def axe(self) -> list[str]:
        """What axe-core finds wrong: rule and element."""
        package = importlib.util.find_spec("axe_core_python")
        assert package is not None
        await self.run(Path(str(package.origin)).with_name("axe.min.js").read_text() + ";0")
        found = await self.run("axe.run(document).then(found => found.violations)")
        return [f"{one['id']}: {node['html'][:150]} {node['failureSummary']}" for one in found for node in one["nodes"]]

    async def picture(self, path: Path) -> None:
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = await self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Tab]:
    """One page of a browser of its own."""
    process = subprocess.Popen(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 60
        while not (told := (profile / "DevToolsActivePort")).exists() or not told.read_text().strip():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        port = told.read_text().split()[0]
        pages = json.loads((await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json")).body)
        (page,) = [one for one in pages if one["type"] == "page"]
        tab = Tab(await websocket_connect(page["webSocketDebuggerUrl"], max_message_size=2**28))
        for domain in ("Page", "Runtime", "Log"):
            await tab.call(f"{domain}.enable")
        yield tab
    finally:
        process.kill()
        process.wait()
