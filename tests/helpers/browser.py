"""A page in headless Chromium, spoken to over a pipe; needs nothing but the browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--window-size=640,640",
)
# Chromium reads its orders from descriptor 3 and answers on 4.
_START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page; use as ``with Browser(path) as browser: browser.evaluate("1 + 1")``."""

    def __init__(self, path: Path) -> None:
        assert CHROMIUM is not None
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        orders, self._to = os.pipe()
        self._from, answers = os.pipe()
        words = [*_SWITCHES, "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(orders), str(answers), CHROMIUM, *words],
            pass_fds=(orders, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(orders), os.close(answers)
        self._number, self._session, self._rest = 0, None, b""
        try:
            target = self._ask("Target.createTarget", url=path.as_uri())
            answer = self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        except BaseException:
            self.__exit__()
            raise
        self._session = answer["sessionId"]

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._to), os.close(self._from)  # Chromium ends when nobody speaks to it
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._profile.cleanup()

    def evaluate(self, expression: str) -> Any:
        """Value of an expression in the page; of a promise, what it resolves to."""
        answer = self._ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_until(self, expression: str, seconds: float = 120.0) -> None:
        """Ask again and again until the expression is true; it may be invalid while the page loads."""
        end, problem = time.monotonic() + seconds, ""
        while time.monotonic() < end:
            try:
                if self.evaluate(expression):
                    return
            except RuntimeError as error:
                problem = f", {error}"
            time.sleep(0.05)
        raise TimeoutError(f"not true within {seconds:g} s: {expression}{problem}")

    def _ask(self, method: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        order: dict[str, Any] = {"id": self._number, "method": method, "params": values}
        if self._session is not None:
            order["sessionId"] = self._session
        os.write(self._to, json.dumps(order).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._from, 1 << 16)
            if not piece:
                raise ConnectionError("chromium ended")
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
