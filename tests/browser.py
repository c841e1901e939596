"""A real Chromium for the tests of pages: Debian's program, driven by playwright."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


def need_chromium() -> str:
    """The path of the program. Where it or playwright is missing the test is skipped; in CI it
    fails."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    missing = [] if found else ["chromium is not installed (Debian: chromium)"]
    if importlib.util.find_spec("playwright") is None:
        missing.append("playwright is not installed (pip install playwright)")
    if missing:
        message = "; ".join(missing)
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    assert found is not None
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of the test's own, without a window."""
    program = need_chromium()
    from playwright.sync_api import sync_playwright

    # Chromium refuses to build its sandbox for root, as whom containers of a CI run.
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield browser
        finally:
            browser.close()
