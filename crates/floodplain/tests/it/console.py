"""The console in Chromium: arguments are the address of the server and the port of MQTT.

Each page shows what it is for, has no violation of axe's rules, and asks nobody but the server.
"""

import os
import shutil
import subprocess
import sys
import threading
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

url, mqtt_port = sys.argv[1:]
PATIENCE_MS = 60_000


def publish(topic, payload):
    subprocess.run(
        ["mosquitto_pub", "-h", "127.0.0.1", "-p", mqtt_port, "-q", "1", "-t", topic, "-m", payload], check=True
    )


class Traffic(threading.Thread):
    """Messages until it is stopped, so that rates are not zero."""

    def __init__(self):
        super().__init__(daemon=True)
        self.over = threading.Event()

    def run(self):
        n = 0
        while not self.over.wait(0.05):
            n += 1
            publish(f"devices/truck-{n % 3}/engine", '{"rpm": %d, "oil": 92.5}' % n)


def check(page, faults, where):
    found = [f"{violation['id']}: {violation['help']}" for violation in Axe().run(page).response["violations"]]
    assert not found, (where, found)
    # What is not built yet is answered by 501, and by 404 if it is not even planned; the page says so, and so does the browser.
    faults[:] = [fault for fault in faults if "status of 501" not in fault and "status of 404" not in fault]
    assert not faults, (where, faults)


def screenshot(page, name):
    """For people to look at, where the variable names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def main(page, faults):
    publish("devices/truck-0/engine", '{"rpm": 1, "oil": 92.5}')

    page.goto(url)
    expect(page.get_by_text("What an acknowledgement means here:")).to_be_visible()
    expect(page.get_by_text("the message survives a power cut")).to_be_visible()
    rates = page.get_by_role("img", name="Messages per second")
    expect(rates).to_be_visible()
    with page.expect_response(lambda response: "overview?follow" in response.url):
        page.reload()
    # Totals grow while the page is open: nobody reloads it.
    messages = page.locator("dl.tiles div", has_text="Messages").locator("dd")
    expect(messages).not_to_have_text("0")
    before = messages.inner_text()
    expect(messages).not_to_have_text(before)
    check(page, faults, "overview")

    page.goto(url + "#/topics?follow=devices/%23")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    publish("devices/kitchen/light", '{"on": true, "id": "from-mosquitto"}')
    page.get_by_role("button", name="Pause").wait_for()
    expect(page.get_by_role("listbox").get_by_text("devices/kitchen/light")).to_be_visible()
    tree = page.get_by_role("tree", name="Topics")
    expect(tree.get_by_text("truck-0", exact=True)).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    check(page, faults, "topics")

    page.goto(url + "#/sql?q=SELECT%20device,%20oil%20FROM%20engine%20WHERE%20device%20%3D%20'truck-0'%20LIMIT%201")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("columnheader", name="oil")).to_be_visible()
    expect(page.get_by_role("cell", name="92.5").first).to_be_visible()
    check(page, faults, "sql")

    page.goto(url + "#/devices")
    names = page.get_by_role("listbox", name="Devices")
    expect(names.get_by_role("option", name="truck-1")).to_be_visible()
    expect(names.get_by_role("option", name="gateway-7")).to_be_visible()
    check(page, faults, "devices")
    screenshot(page, "devices")
    page.get_by_role("searchbox", name="Search devices").fill("RUCK-0")
    expect(names.get_by_role("option", name="truck-1")).not_to_be_visible()
    names.get_by_role("option", name="truck-0").click()
    expect(page.get_by_role("heading", name="truck-0", level=1)).to_be_visible()
    # The chart and the values move while the page is open.
    chart = page.get_by_role("img", name="Values of truck-0")
    expect(chart).to_be_visible()
    rpm = page.get_by_role("region", name="Table of latest values").get_by_role("row", name="engine.rpm").locator("td").nth(1)
    before = rpm.inner_text()
    expect(rpm).not_to_have_text(before)
    expect(page.get_by_text("devices/truck-0/engine").first).to_be_visible()
    check(page, faults, "device")
    screenshot(page, "device")

    page.goto(url + "#/device/gateway-7")
    expect(page.get_by_text("devices/+/orders QoS 1")).to_be_visible()
    events = page.get_by_role("region", name="Events")
    expect(events.get_by_text("connected", exact=True).first).to_be_visible()
    check(page, faults, "device of a client")
    screenshot(page, "client")

    for place in ["alerts", "bindings", "dead-letters"]:
        page.goto(f"{url}#/{place}")
        expect(page.get_by_text("is planned, and not built yet").first).to_be_visible()
        check(page, faults, place)


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    for scheme in ["light", "dark"]:
        context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page = context.new_page()
        faults = []
        page.on("console", lambda message: message.type == "error" and faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda request: urlsplit(request.url).netloc not in ("", urlsplit(url).netloc)
            and faults.append(f"request to {request.url}"),
        )
        # A client with a session, as the page of a device shows it.
        client = ["mosquitto_sub", "-h", "127.0.0.1", "-p", mqtt_port, "-i", "gateway-7", "-c", "-q", "1"]
        subscriber = subprocess.Popen([*client, "-t", "devices/+/orders"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        traffic = Traffic()
        traffic.start()
        try:
            main(page, faults)
        finally:
            traffic.over.set()
            traffic.join()
            subscriber.terminate()
            subscriber.wait()
        context.close()
    browser.close()
print("all pages are well")
