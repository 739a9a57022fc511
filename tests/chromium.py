"""A page in headless Chromium, by Chrome's DevTools protocol."""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Coroutine
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
from needed import missing

from benchmarks.browser import CHROMIUM

# Seconds until Chromium, and what is waited for, must be there.
PATIENCE = 60


class Tab:
    """An open page. complaints: the console's warnings and errors. requests: addresses that it asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._socket, self._answers, self._numbers = socket, {}, count(1)
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._socket:
            content = json.loads(message.data)
            if "id" in content:
                self._answers.pop(content["id"]).set_result(content)
            elif content["method"] == "Network.requestWillBeSent":
                self.requests.append(content["params"]["request"]["url"])
            elif content["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                said = content["params"]
                if said.get("type", said.get("entry", {}).get("level", "error")) in ("warning", "error"):
                    self.complaints.append(json.dumps(said))

    async def call(self, method: str, **params: Any) -> dict:
        """The result of a method of the protocol."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        answer = await asyncio.wait_for(self._answers[number], PATIENCE)
        assert "error" not in answer, answer
        return answer["result"]

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        for _ in range(10 * PATIENCE):
            if await self.evaluate(condition):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{condition} never came true; {self.complaints}")

    async def open(self, address: str, *, width: int = 1280, scheme: str = "light", scripts: bool = True) -> None:
        """Load a page. scheme: light | dark, as the user prefers."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **screen)
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=address)
        await self.until(f"document.readyState == 'complete' && location.href == {json.dumps(address)}")

    async def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        taken = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))


def visit(use: Callable[[Tab], Coroutine[Any, Any, Any]]) -> Any:
    """What `use` makes of an empty tab. Skips the test without Chromium."""
    if not shutil.which(CHROMIUM[0]):
        missing(f"{CHROMIUM[0]} is missing: apt-get install {CHROMIUM[0]}")
    return asyncio.run(_visit(use))


async def _visit(use: Callable[[Tab], Coroutine[Any, Any, Any]]) -> Any:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [*CHROMIUM, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
        browser = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            told = Path(profile, "DevToolsActivePort")
            for _ in range(10 * PATIENCE):
                if told.exists() and "\n" in told.read_text():
                    break
                await asyncio.sleep(0.1)
            port = told.read_text().splitlines()[0]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    (page,) = [target for target in await answer.json() if target["type"] == "page"]
                async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    return await use(Tab(socket))
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
