"""A Chromium of this machine, offline, and pages that report what they did."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def samples() -> ModuleType:
    """The sample reports that the unit tests use too."""
    path = Path(__file__).parents[1] / "unit" / "report_samples.py"
    found = importlib.util.spec_from_file_location("report_samples", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules.setdefault("report_samples", module)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless browser; skips where the machine has none."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        # No name resolves. (A context that is offline would not reach the explorer's own server either.)
        alone = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
        started = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu", alone])
        yield started
        started.close()


class Visit:
    """One opened page with its console messages, its errors and every request it made."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.messages: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture(scope="session")
def violations() -> Callable[[Any], list[tuple[str, str]]]:
    """What axe-core finds on a page: (rule, the first element that breaks it)."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()

    def found(page: Any) -> list[tuple[str, str]]:
        return [(v["id"], v["nodes"][0]["html"][:200]) for v in axe.run(page).response["violations"]]

    return found


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Open a file offline at a width, in a colour scheme, and wait until its charts are drawn."""
    contexts = []

    def opened(path: Path, *, width: int = 1280, scheme: str = "light", **options: Any) -> Visit:
        size = {"width": width, "height": 900}
        context = browser.new_context(offline=True, viewport=size, color_scheme=scheme, **options)
        contexts.append(context)
        found = Visit(context.new_page())
        found.page.goto(path.as_uri())
        if options.get("java_script_enabled", True) and found.page.locator(".chart").count():
            found.page.wait_for_function("document.documentElement.dataset.charts === 'drawn'", timeout=20_000)
        return found

    yield opened
    for context in contexts:
        context.close()
