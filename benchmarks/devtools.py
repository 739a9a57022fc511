"""Headless Chromium, driven by the DevTools protocol (chromedevtools.github.io/devtools-protocol) over a pipe."""

import base64
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.browser import CHROMIUM

# Seconds until an answer must have come.
PATIENCE = 120


class Page:
    """A page in Chromium. `requests`: addresses that it asked for. `errors`: of its console, and what it threw."""

    def __init__(self, send, receive):
        self._send, self._receive = send, receive
        self.requests, self.errors, self._answers, self._count = [], [], queue.Queue(), 0
        threading.Thread(target=self._listen, daemon=True).start()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> Mapping:
        """The result of a command of the protocol. Raises RuntimeError with Chromium's error."""
        self._count += 1
        session = {"sessionId": self._session} if hasattr(self, "_session") else {}
        message = {"id": self._count, "method": method, "params": parameters} | session
        self._send.write(json.dumps(message).encode() + b"\0")
        answer = self._answers.get(timeout=PATIENCE)
        assert answer["id"] == self._count
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def value(self, expression: str):
        """What JavaScript says, as JSON; promises are waited for. Raises RuntimeError with what it throws."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def until(self, expression: str):
        """The first value of JavaScript that is true."""
        script = f"""new Promise((resolve, reject) => {{
            const end = performance.now() + {1000 * PATIENCE / 2};
            const again = () => {{
                const value = {expression};
                if (value) resolve(value);
                else if (performance.now() > end) reject(new Error("never: " + {json.dumps(expression)}));
                else setTimeout(again, 20);
            }};
            again();
        }})"""
        return self.value(script)

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
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if about["type"] == "error":
                self.errors.append(" ".join(str(each.get("value")) for each in about["args"]))
            case "Log.entryAdded" if about["entry"]["level"] == "error":
                self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")


@contextmanager
def chromium(*flags: str) -> Iterator[Page]:
    """A page of a Chromium of its own, with these flags beside those of CHROMIUM."""
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
