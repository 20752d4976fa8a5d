"""Headless Chromium, the machine's own, for what measures or tests a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


def missing() -> str:
    """Why there is no browser here; empty if there is one."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed: pip install -e '.[dev]' -c constraints.txt -c constraints-dev.txt"
    return "" if _program() else f"no browser: none of {', '.join(NAMES)} is on the path"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Playwright, closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_program(), args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


def _program() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)
