"""Headless Chromium, driven by the DevTools protocol (chromedevtools.github.io/devtools-protocol) over a pipe."""

import base64
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bitlite.workflow.errors import InputError

CHROMIUM = (
    "chromium", "--headless", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan", "--use-vulkan=swiftshader",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip
# Seconds until an answer, and what is waited for, must have come.
PATIENCE = 120


class Page:
    """A page in Chromium. `requests`: addresses that it asked for. `complaints`: what it threw, and what its console
    has as warnings and errors."""

    def __init__(self, send, receive):
        self._send, self._receive = send, receive
        self.requests, self.complaints, self._answers, self._count = [], [], queue.Queue(), 0
        threading.Thread(target=self._listen, daemon=True).start()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> Mapping:
        """The result of a command of the protocol. Raises RuntimeError with Chromium's error, or that none came."""
        self._count += 1
        session = {"sessionId": self._session} if hasattr(self, "_session") else {}
        message = {"id": self._count, "method": method, "params": parameters} | session
        self._send.write(json.dumps(message).encode() + b"\0")
        try:
            answer = self._answers.get(timeout=PATIENCE)
        except queue.Empty:
            raise RuntimeError(f"nothing after {PATIENCE} s; {self.complaints}") from None
        assert answer["id"] == self._count
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, address: str, *, scripts: bool = True) -> None:
        """Load a page, whose own scripts run or do not."""
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def value(self, expression: str):
        """What JavaScript says, as JSON; promises are waited for. Raises RuntimeError with what it throws."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def until(self, expression: str):
        """The first value of JavaScript that is true. Raises RuntimeError if none ever is."""
        end = time.monotonic() + PATIENCE
        while not (value := self.value(expression)):
            if time.monotonic() > end:
                raise RuntimeError(f"never: {expression}; {self.complaints}")
            time.sleep(0.02)
        return value

    def point(self, x: float, y: float) -> None:
        """Move the mouse there."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """As a user does, with the rights that a page has from then on."""
        box = self.value(
            f"""(() => {{ const each = document.querySelector({json.dumps(selector)});
            each.scrollIntoView({{ block: "center" }});
            const {{ x, y, width, height }} = each.getBoundingClientRect();
            return [x + width / 2, y + height / 2]; }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in an <input type="file">."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(file)], objectId=found["result"]["objectId"])

    def screen(self, width: int, height: int, scheme: str = "light", phone: bool = False) -> None:
        """What the page is shown on. scheme: light | dark, as the user prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def screenshot(self, file: Path) -> None:
        """A PNG of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def _listen(self) -> None:
        rest = b""
        while some := self._receive.read1():
            *messages, rest = (rest + some).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers.put(message)
                else:
                    self._heard(message["method"], message["params"])

    def _heard(self, event: str, about: Mapping) -> None:
        match event:
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Runtime.exceptionThrown":
                details = about["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if about["type"] in ("warning", "error"):
                self.complaints.append(" ".join(str(each.get("value")) for each in about["args"]))
            case "Log.entryAdded" if about["entry"]["level"] in ("warning", "error"):
                self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")


def check() -> None:
    """Raise InputError that says what to install if Chromium is missing."""
    if not shutil.which(CHROMIUM[0]):
        raise InputError(f"{CHROMIUM[0]} is missing: apt-get install {CHROMIUM[0]}")


@contextmanager
def chromium(*flags: str) -> Iterator[Page]:
    """A page of a Chromium of its own, with these flags beside those of CHROMIUM. Raises InputError as `check` does."""
    check()
    (there, send), (receive, here) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium reads commands from file 3 and answers to file 4.
        command = [*CHROMIUM, *flags, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        browser = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{there} 4>&{here}', "bash", *command],
            pass_fds=(there, here), stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(there)
        os.close(here)
        try:
            # Its thread reads until Chromium is gone, and no file may be closed that is read.
            yield Page(os.fdopen(send, "wb", buffering=0), os.fdopen(receive, "rb"))
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
