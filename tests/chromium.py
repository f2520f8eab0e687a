"""A headless Chromium, told over a pipe what to do (the DevTools protocol), for tests of pages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

PROGRAM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
     if (path := shutil.which(name))),
    None,
)  # fmt: skip
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)


@dataclass
class Page:
    """An empty page of a browser.

    Attributes:
        requests: Addresses that it asked for.
        said: What stood in its console, and what the browser complained of.
    """

    down: BinaryIO
    up: BufferedReader
    session: str | None = None
    number: int = 0
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    loads: int = 0
    come: bytes = b""  # what has come of the next message

    def ask(self, method: str, **params: Any) -> Any:
        """Have something done, and get the answer; what happens meanwhile is noted."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.down.write(json.dumps(message).encode() + b"\0")
        self.down.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.come:
            more = self.up.read1(2**20)
            assert more, "the browser is gone"
            self.come += more
        text, self.come = self.come.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.said.append(" ".join(str(each.get("value")) for each in params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.said.append(params["exceptionDetails"]["text"])
        elif method == "Page.loadEventFired":
            self.loads += 1

    def open(self, path: Path) -> None:
        """Open a file, and wait until it is there."""
        before = self.loads
        answer = self.ask("Page.navigate", url=path.as_uri())
        assert "errorText" not in answer, answer
        while self.loads == before:
            self._next()

    def value(self, expression: str) -> Any:
        """Of an expression in JavaScript."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def look(self, *, width: int, dark: bool = False, media: str = "screen") -> None:
        """Have it shown that wide, in light or dark colours, on a screen or as printed."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme])


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A page of a browser with a new profile, for a ``with`` block."""
    assert PROGRAM is not None
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # The browser reads from descriptor 3 and writes to 4.
    command = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", PROGRAM]
    arguments = [*command, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        arguments,
        pass_fds=(theirs_in, theirs_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    with os.fdopen(ours_out, "wb") as down, os.fdopen(ours_in, "rb") as up:
        page = Page(down, up)
        try:
            target = page.ask("Target.createTarget", url="about:blank")["targetId"]
            answer = page.ask("Target.attachToTarget", targetId=target, flatten=True)
            page.session = answer["sessionId"]
            for domain in ("Page", "Network", "Log", "Runtime"):
                page.ask(f"{domain}.enable")
            yield page
        finally:
            process.terminate()
            process.wait(20)
