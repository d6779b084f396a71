"""A headless Chromium for tests of pages, or a skip that says why there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def installed() -> str | None:
    """The browser that is named or on the path; None: Playwright's own, if that is there."""
    named = os.environ.get("NSTCORE_CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


@pytest.fixture(scope="session", name="browser")
def browser_fixture() -> Iterator:
    """One browser for all tests."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (the extra `test` has it)")
    with api.sync_playwright() as playwright:
        path = installed()
        if path is None and not os.path.exists(playwright.chromium.executable_path):
            pytest.skip("no Chromium: name one in NSTCORE_CHROMIUM, or run `sh tools/browser.sh PYTHON`")
        # Chromium's own sandbox does not start as root, nor in many containers
        arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


class Visit:
    """What a page has said and asked for since it was opened."""

    def __init__(self) -> None:
        self.console: list[str] = []
        self.requests: list[str] = []


@pytest.fixture(name="visit")
def visit_fixture(browser) -> Iterator[Callable]:
    """Opens an address: (page, Visit). Nothing that a page says on the console is expected."""
    contexts, visits = [], []

    def opened(address: str, width: int = 1100, height: int = 800, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page, seen = context.new_page(), Visit()
        visits.append(seen)
        page.on("console", lambda message: seen.console.append(message.text))
        page.on("pageerror", lambda error: seen.console.append(str(error)))
        page.on("request", lambda request: seen.requests.append(f"{request.method} {request.url}"))
        page.set_default_timeout(15_000)
        page.goto(address)
        return page, seen

    yield opened
    for context in contexts:
        context.close()
    assert [seen.console for seen in visits] == [[]] * len(visits)
