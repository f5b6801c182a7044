"""Chromium for the tests of the console, and what holds of each page."""

import os
import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

PATIENCE_MS = 60_000


@contextmanager
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def reader(browser, url, scheme="light"):
    """A page of a fresh reader, and what went wrong in it: errors, exceptions, requests to others."""
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page = context.new_page()
    faults = []
    page.on("console", lambda message: message.type == "error" and faults.append(f"{message.text} {message.location['url']}"))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request",
        lambda request: urlsplit(request.url).netloc not in ("", urlsplit(url).netloc)
        and faults.append(f"request to {request.url}"),
    )
    yield page, faults
    context.close()


def check(page, faults, where, refused=()):
    """Nothing went wrong but `refused`, pairs of status and path, each of which has happened; axe finds nothing."""
    found = [f"{violation['id']}: {violation['help']}" for violation in Axe().run(page).response["violations"]]
    assert not found, (where, found)
    for status, path in refused:
        # A browser reports each answer that is no success.
        told = [fault for fault in faults if f"status of {status} " in fault and urlsplit(fault.split()[-1]).path == path]
        assert told, (where, status, path, faults)
        faults[:] = [fault for fault in faults if fault not in told]
    # A binding is tried while it is written; what is half written is refused, which the page says.
    faults[:] = [fault for fault in faults if "status of 422 " not in fault or urlsplit(fault.split()[-1]).path != "/api/v1/bindings/test"]
    assert not faults, (where, faults)


def screenshot(page, name):
    """For people to look at, where the variable names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)
