"""A real browser, driven over pipes by its DevTools protocol: as much of it as a test needs."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from attrs import define, field

__all__ = ["CHROMIUM", "Browser", "browse"]

CHROMIUM: Final = shutil.which("chromium")

#: Longer than anything here takes.
PATIENCE_SECONDS: Final = 120.0

FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip


@define(eq=False)
class Browser:
    """One page of it."""

    _to: int
    _back: int
    _session: str = ""
    _number: int = 0
    _rest: bytes = b""
    errors: list[str] = field(factory=list)
    """What the page has thrown, what it was forbidden, and what it could not load."""

    def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, expression: str) -> Any:
        """What an expression is in the page; a promise is awaited."""
        told = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, expression: str) -> Any:
        """What it is, as soon as that is true."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not (value := self.run(expression)):
            assert time.monotonic() < until, f"never true: {expression}"
            time.sleep(0.02)
        return value

    def text(self, selector: str) -> str:
        found = self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return str(found)

    def show(self, width: int, height: int, *, scheme: str = "light") -> None:
        """As a window of this size shows it."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def photograph(self, path: Path) -> None:
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    def open(self, url: str, *, first: str = "") -> None:
        """``first`` is run in the page before any script of its own."""
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        self.errors.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=first)
        self.call("Page.navigate", url=url)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._back, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        told: dict[str, Any] = json.loads(message)
        return told

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(event["params"]["exceptionDetails"])[:500])
            case "Log.entryAdded" if event["params"]["entry"]["level"] == "error":
                self.errors.append(event["params"]["entry"]["text"])


@contextmanager
def browse(profile: Path) -> Iterator[Browser]:
    """A browser with a fresh profile, which is gone at the end."""
    assert CHROMIUM is not None
    (its_in, to), (back, its_out) = os.pipe(), os.pipe()
    # It takes what is 3 and 4: what is passed must not be one of these itself.
    high_in, high_out = (fcntl.fcntl(one, fcntl.F_DUPFD, 64) for one in (its_in, its_out))

    def place() -> None:
        os.dup2(high_in, 3)
        os.dup2(high_out, 4)

    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=place,
        pass_fds=(3, 4),
        start_new_session=True,
    )
    for one in (its_in, its_out, high_in, high_out):
        os.close(one)
    try:
        yield Browser(to, back)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(to)
        os.close(back)
