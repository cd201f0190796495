"""A headless Chromium, driven through two pipes.

::

    Browser.ask ── JSON, then a zero byte ──> descriptor 3 of Chromium
    Browser._read <── answers and events ──── descriptor 4 of Chromium

Chromium speaks its DevTools protocol on these descriptors if it gets ``--remote-debugging-pipe``. So this needs neither
a port nor a library for web sockets.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

#: The names of the program, the first that is found is used.
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: What a page says that it should not say.
_COMPLAINTS = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
_FIRST_FREE = 10  # above the descriptors that Chromium expects


class View(NamedTuple):
    """How a page is shown."""

    width: int  # in CSS pixels
    dark: bool = False
    height: int = 900
    scale: float = 1.0  # device pixels per CSS pixel
    grey: bool = False  # as somebody sees it who sees no colours


class Browser:
    """A Chromium with one page. Use it in a ``with`` statement, in one thread.

    Raises
    ------
    FileNotFoundError
        If no Chromium is installed.
    """

    def __init__(self) -> None:
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            raise FileNotFoundError("no Chromium is installed. On Debian and Ubuntu: apt install chromium")
        self.complaints: list[str] = []
        self._events: list[str] = []
        self._last = 0
        self._rest = b""
        self._profile = tempfile.TemporaryDirectory(prefix="shoal-pictures-", ignore_cleanup_errors=True)
        (there, self._out), (self._in, back) = os.pipe(), os.pipe()
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _FIRST_FREE) for descriptor in (there, back)]

        def place() -> None:
            for number, descriptor in enumerate(high, 3):
                os.dup2(descriptor, number)

        options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", "--disable-gpu"]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # Chromium's sandbox refuses to run as root
        self._process = subprocess.Popen(
            [program, *options, "about:blank"],
            pass_fds=(3, 4),
            preexec_fn=place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in (there, back, *high):
            os.close(descriptor)
        self._session: str | None = None
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        """Find the page, and have it tell what happens in it."""
        targets = self.ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End Chromium, and remove its profile."""
        self._process.terminate()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result.

        Raises
        ------
        RuntimeError
            If Chromium refuses the call.
        EOFError
            If Chromium has ended.
        """
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        whole = memoryview(json.dumps(message).encode() + b"\0")
        while whole:
            whole = whole[os.write(self._out, whole) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def show(self, page: Path, view: View) -> None:
        """Load a file, and wait until its scripts have run."""
        self.look(view)
        self._events.clear()
        self.ask("Page.navigate", url=page.absolute().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._read()
        self._wait()

    def look(self, view: View) -> None:
        """Show the page in another way, without loading it again."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=view.width,
            height=view.height,
            deviceScaleFactor=view.scale,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if view.dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Emulation.setEmulatedVisionDeficiency", type="achromatopsia" if view.grey else "none")
        self._wait()

    def _wait(self) -> None:
        """Wait until the page has been drawn twice: once may have been under way."""
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def value(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript in the page; of a promise, what it resolves to.

        Raises
        ------
        RuntimeError
            If the expression raises.
        """
        answer = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Return left, top, width and height of an element, in CSS pixels of the window."""
        rectangle = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        left, top, width, height = self.value(f"(({{x, y, width, height}}) => [x, y, width, height])({rectangle})")
        return left, top, width, height

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at a point of the window, move it to another, and release it there."""
        for kind, (x, y), pressed in (
            ("mouseMoved", start, 0),
            ("mousePressed", start, 1),
            ("mouseMoved", end, 1),
            ("mouseReleased", end, 0),
            ("mouseMoved", end, 0),
        ):
            button = "left" if kind in ("mousePressed", "mouseReleased") or pressed else "none"
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=pressed, clickCount=1)
        self._wait()

    def picture(self, file: Path, clip: tuple[float, float, float, float] | None = None) -> None:
        """Write the whole page, or a part of it (left, top, width, height in CSS pixels), to a PNG."""
        if clip is None:
            size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
            clip = (0, 0, size["width"], size["height"])
        box = dict(zip(("x", "y", "width", "height"), clip, strict=True), scale=1)
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=box)
        file.write_bytes(base64.b64decode(answer["data"]))

    def printed(self, file: Path) -> None:
        """Write the page, as it would be printed on A4, to a PDF."""
        answer = self.ask("Page.printToPDF", printBackground=False, paperWidth=8.27, paperHeight=11.69)
        file.write_bytes(base64.b64decode(answer["data"]))

    def _read(self) -> dict[str, Any]:
        """Return the next message, and note what it says of the page."""
        while b"\0" not in self._rest:
            block = os.read(self._in, 1 << 20)
            if not block:
                raise EOFError("Chromium has ended")
            self._rest += block
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        method = message.get("method", "")
        self._events.append(method)
        if method in _COMPLAINTS:
            self.complaints.append(f"{method}: {json.dumps(message['params'])[:2000]}")
        return message
