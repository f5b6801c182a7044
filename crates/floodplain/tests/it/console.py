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
    # The only topic of the first level is open by itself; the second time there are alerts, too.
    tree.get_by_role("treeitem").filter(has_text="devices").first.press("ArrowRight")
    expect(tree.get_by_text("truck-0", exact=True)).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    check(page, faults, "topics")

    page.goto(url + "#/sql?q=SELECT%20device,%20oil%20FROM%20engine%20WHERE%20device%20%3D%20'truck-0'%20LIMIT%201")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("columnheader", name="oil")).to_be_visible()
    expect(page.get_by_role("cell", name="92.5").first).to_be_visible()
    tables_of_server = page.get_by_role("region", name="Of the server")
    tables_of_server.get_by_text("alerts", exact=True).first.click()
    expect(tables_of_server.get_by_text("cause_position", exact=True)).to_be_visible()
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

    page.goto(url + "#/alerts")
    expect(page.get_by_text("No alert yet.")).to_be_visible()
    check(page, faults, "no alerts")
    page.get_by_role("button", name="New alert").click()
    page.get_by_label("Name", exact=True).fill("oil-hot")
    page.get_by_label("Fires when").select_option("above")
    page.get_by_label("Table").select_option("engine")
    page.get_by_label("Column").select_option("oil")
    page.get_by_label("Limit").fill("90")
    page.get_by_label("Devices").fill("truck-*")
    page.get_by_role("button", name="Test on current values").click()
    expect(page.get_by_text("Would fire now for 3 devices:")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    alert = page.get_by_role("region", name="Alert oil-hot")
    expect(alert.get_by_text("3 firing")).to_be_visible()
    expect(alert.get_by_role("link", name="truck-1")).to_be_visible()
    check(page, faults, "alerts")
    page.get_by_label("Limit").fill("95")
    page.get_by_role("button", name="Save").click()
    expect(alert.get_by_text("engine.oil above 95")).to_be_visible()
    expect(alert.get_by_text("firing")).to_have_count(0)
    page.goto(url + "#/")
    expect(page.locator("dl.tiles div", has_text="Alerts firing").locator("dd")).to_have_text("0")
    page.goto(url + "#/alerts?edit=oil-hot")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Deleted.")).to_be_visible()
    expect(page.get_by_text("No alert yet.")).to_be_visible()

    bindings(page, faults)


def bindings(page, faults):
    """A person makes a binding, sees what it would do, sees what it refuses, and has that decoded by another one."""
    # The same steps in each colour scheme, with names of their own. The tree of topics is open while it has one root.
    name = f"plants-{len(list_of(page, 'bindings')['bindings'])}"
    page.goto(f"{url}#/bindings")
    expect(page.get_by_role("button", name="default")).to_be_visible()
    page.get_by_role("button", name="New binding").click()
    form = page.locator("form.form")
    form.get_by_label("Name", exact=True).fill(name)
    form.get_by_label("Topic filter").fill(f"devices/{name}/+")
    form.locator("label:has-text('Decoder') select").select_option("json")
    form.get_by_label("Key columns").fill("n")
    form.get_by_label("Key columns").blur()
    test = page.get_by_role("region", name="Test", exact=True)
    test.get_by_label("Payload").fill('{"n": 7, "rpm": 1450}')
    expect(test.get_by_role("row", name="n 7 Float64 key")).to_be_visible()
    test.get_by_label("Payload").fill('{"n": ')
    expect(test.get_by_text("payload is not json")).to_be_visible()
    check(page, faults, "a binding and its test")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved; new messages take it from now on.")).to_be_visible()

    publish(f"devices/{name}/pump", '{"n": 1, "rpm": 1450}')
    publish(f"devices/{name}/pump", f"no json for {name}")
    page.goto(f"{url}#/dead-letters?binding={name}")
    letter = page.locator("summary", has_text=f"devices/{name}/pump")
    expect(letter).to_be_visible()
    letter.click()
    expect(page.get_by_text(f"no json for {name}")).to_be_visible()
    check(page, faults, "dead letters")

    page.goto(f"{url}#/bindings?edit={name}")
    expect(page.get_by_role("row", name=name).get_by_role("cell").nth(5)).to_have_text("1")
    form.locator("label:has-text('Decoder') select").select_option("text")
    form.get_by_label("Key columns").fill("")
    form.get_by_label("Key columns").blur()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved; new messages take it from now on.")).to_be_visible()
    page.goto(f"{url}#/dead-letters?binding={name}")
    page.locator("summary", has_text=f"devices/{name}/pump").click()
    page.get_by_role("button", name="Replay this one").click()
    expect(page.get_by_text("started with today's decoders")).to_be_visible()
    expect(page.get_by_role("region", name="Table of replays").get_by_text("done").first).to_be_visible()
    page.reload()
    expect(page.locator("summary", has_text="replayed")).to_be_visible()
    check(page, faults, "a letter that was decoded again")


def list_of(page, what):
    return page.request.get(f"{url}api/v1/{what}").json()


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
