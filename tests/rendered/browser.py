"""A headless Chromium, driven over its debugging socket by real input events."""

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)

# Key: what the browser is told of it.
KEYS: dict[str, dict[str, Any]] = {
    "ArrowLeft": {"windowsVirtualKeyCode": 37},
    "ArrowUp": {"windowsVirtualKeyCode": 38},
    "ArrowRight": {"windowsVirtualKeyCode": 39},
    "ArrowDown": {"windowsVirtualKeyCode": 40},
    "End": {"windowsVirtualKeyCode": 35},
    "Home": {"windowsVirtualKeyCode": 36},
    "Tab": {"windowsVirtualKeyCode": 9},
    "Delete": {"windowsVirtualKeyCode": 46},
    "Enter": {"windowsVirtualKeyCode": 13, "text": "\r"},
    " ": {"windowsVirtualKeyCode": 32, "text": " ", "code": "Space"},
}

Point = tuple[float, float]


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, profile: Path) -> None:
        import websocket

        assert CHROMIUM is not None
        self.process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                f"--user-data-dir={profile}",
                "--remote-debugging-port=0",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port_file = Path(profile) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (port_file.exists() and len(port_file.read_text().split()) == 2):
            assert time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.1)
        port, path = port_file.read_text().split()
        self.socket = websocket.create_connection(
            f"ws://127.0.0.1:{port}{path}", suppress_origin=True, timeout=120
        )
        self.last = 0
        self.session: str | None = None
        self.events: list[Any] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call(
            "Target.attachToTarget", targetId=target, flatten=True
        )["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def receive(self) -> Any:
        message = json.loads(self.socket.recv())
        if "method" in message:
            self.events.append(message)
        return message

    def call(self, method: str, **params: Any) -> Any:
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while (answer := self.receive()).get("id") != self.last:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression; a promise is waited for."""
        result = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)

    # ---- Opening a page ----------------------------------------------------------

    def open(
        self,
        url: str,
        width: int,
        touch: bool = False,
        scripts: bool = True,
        blocked: str = "",
        **media: str,
    ) -> None:
        """Open a page and wait until it is drawn.

        Args:
            url: of the page.
            width: of the window in pixels.
            touch: whether the screen can be touched.
            scripts: whether the page's scripts run.
            blocked: what is not loaded, an address with stars.
            media: what the reader prefers: `prefers_color_scheme="dark"`,
                `prefers_reduced_motion="reduce"`.
        """
        self.resize(width)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.prefer(**media)
        self.call("Network.setBlockedURLs", urls=[blocked] if blocked else [])
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self.receive()
        if not scripts:
            return
        self.evaluate(
            "(async () => { if (window.MathJax && MathJax.startup)"
            " await MathJax.startup.promise;"
            " await new Promise(done => setTimeout(done, 100)); })()"
        )

    def resize(self, width: int) -> None:
        """Make the window so many pixels wide; below 500 it is a phone's."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def prefer(self, medium: str = "", **media: str) -> None:
        """Say how the page is shown: `medium="print"`, and what the reader prefers."""
        features = [
            {"name": name.replace("_", "-"), "value": value}
            for name, value in media.items()
        ]
        self.call("Emulation.setEmulatedMedia", media=medium, features=features)

    def asked(self) -> list[str]:
        """Return the addresses that the page has asked for."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def errors(self) -> list[str]:
        """Return what went wrong on the page, or was written to its console."""
        wrong = []
        for event in self.events:
            told = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                text = details.get("exception", {}).get("description", details["text"])
                wrong.append(text)
            elif event["method"] == "Runtime.consoleAPICalled":
                if told["type"] in ("error", "warning", "assert"):
                    words = [str(a.get("value", a)) for a in told["args"]]
                    wrong.append(f"console.{told['type']}: {' '.join(words)}")
            elif event["method"] == "Log.entryAdded":
                entry = told["entry"]
                meant = "ERR_BLOCKED_BY_CLIENT" in entry["text"]
                if entry["level"] in ("error", "warning") and not meant:
                    wrong.append(f"{entry['text']} {entry.get('url', '')}")
        return wrong

    # ---- Using it as a reader does ------------------------------------------------

    def of(self, selector: str, expression: str) -> Any:
        """Return the value of an expression about `it`, an element."""
        asked = json.dumps(selector)
        return self.evaluate(
            f"((it) => {{ if (!it) throw Error('no ' + {asked});"
            f" return {expression}; }})(document.querySelector({asked}))"
        )

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Scroll to an element; return its left, top, width and height."""
        self.of(selector, "it.scrollIntoView({block: 'center', behavior: 'instant'})")
        box = self.of(selector, "it.getBoundingClientRect().toJSON()")
        return box["x"], box["y"], box["width"], box["height"]

    def middle(self, selector: str) -> Point:
        """Scroll to an element; return its middle in the window."""
        x, y, width, height = self.box(selector)
        return x + width / 2, y + height / 2

    def frame(self) -> None:
        """Wait until the page has been drawn again."""
        self.evaluate(
            "new Promise(done => requestAnimationFrame(() =>"
            " requestAnimationFrame(done)))"
        )

    def _mouse(self, kind: str, at: Point, held: bool) -> None:
        self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=at[0],
            y=at[1],
            button="none" if kind == "mouseMoved" and not held else "left",
            buttons=int(held),
            clickCount=0 if kind == "mouseMoved" else 1,
        )

    def click(self, selector: str) -> None:
        self.drag(selector, (0, 0))

    def drag(self, selector: str, by: Point, steps: int = 4) -> None:
        """Drag an element's middle by so many pixels, with the mouse."""
        self.drag_from(self.middle(selector), by, steps)

    def drag_from(self, start: Point, by: Point, steps: int = 4) -> None:
        """Drag with the mouse from a place in the window."""
        self._mouse("mouseMoved", start, held=False)
        self._mouse("mousePressed", start, held=True)
        at = start
        if by != (0, 0):
            for step in range(1, steps + 1):
                share = step / steps
                at = (start[0] + by[0] * share, start[1] + by[1] * share)
                self._mouse("mouseMoved", at, held=True)
        self._mouse("mouseReleased", at, held=False)
        self.frame()

    def tap(self, selector: str) -> None:
        self.swipe(selector, (0, 0))

    def swipe(self, selector: str, by: Point, steps: int = 4) -> None:
        """Drag an element's middle by so many pixels, with a finger."""
        self.swipe_from(self.middle(selector), by, steps)

    def swipe_from(self, start: Point, by: Point, steps: int = 4) -> None:
        """Drag with a finger from a place in the window."""

        def touch(kind: str, *points: Point) -> None:
            self.call(
                "Input.dispatchTouchEvent",
                type=kind,
                touchPoints=[{"x": x, "y": y} for x, y in points],
            )

        touch("touchStart", start)
        if by != (0, 0):
            for step in range(1, steps + 1):
                share = step / steps
                touch("touchMove", (start[0] + by[0] * share, start[1] + by[1] * share))
        touch("touchEnd")
        self.frame()

    def focus(self, selector: str) -> None:
        self.middle(selector)
        self.of(selector, "it.focus()")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, on what has the focus."""
        for key in keys:
            told = {"key": key, "code": key} | KEYS[key]
            self.call("Input.dispatchKeyEvent", type="keyDown", **told)
            told.pop("text", None)
            self.call("Input.dispatchKeyEvent", type="keyUp", **told)
        self.frame()

    def slide(self, selector: str, value: float, touch: bool = False) -> float:
        """Put a slider at about this value by a click or a tap; return where it is."""
        x, y, width, height = self.box(selector)
        least, most = self.of(selector, "[+it.min, +it.max]")
        thumb = 16  # its middle moves within the track, less its own width
        share = (value - least) / (most - least)
        at = (x + thumb / 2 + share * (width - thumb), y + height / 2)
        if touch:
            point = [{"x": at[0], "y": at[1]}]
            self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=point)
            self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        else:
            self.drag_from(at, (0, 0))
        self.frame()
        return float(self.of(selector, "it.value"))
