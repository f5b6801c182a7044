"""The console in Chromium: arguments are the address of the server and the port of MQTT.

Each page shows what it is for, has no violation of axe's rules, and asks nobody but the server.
"""

import subprocess
import sys
import threading

from playwright.sync_api import expect

from browser import check, chromium, reader, screenshot

url, mqtt_port = sys.argv[1:]


# Whether a chart draws a line of the first colour.
LINE = """() => {
    const canvas = document.querySelector('canvas');
    const colour = getComputedStyle(document.documentElement).getPropertyValue('--s1').trim();
    const [red, green, blue] = colour.match(/[0-9a-f]{2}/g).map((two) => parseInt(two, 16));
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const near = (one, other) => Math.abs(one - other) < 12;
    const columns = new Set();
    for (let n = 0; n < data.length; n += 4)
        if (data[n + 3] > 200 && near(data[n], red) && near(data[n + 1], green) && near(data[n + 2], blue)) columns.add((n / 4) % canvas.width);
    return columns.size > canvas.width / 2;
}"""


def publish(topic, payload, *flags):
    """A text, or bytes."""
    payload = payload if isinstance(payload, bytes) else payload.encode()
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", mqtt_port, "-q", "1", "-t", topic, "-s", *flags]
    subprocess.run(command, input=payload, check=True)


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


def the_first_message(page, faults):
    """The pages of an empty server are open when it comes; nobody reloads them. It is sent by what they say."""
    page.goto(url + "#/devices")
    expect(page.get_by_text("No device has been seen yet.")).to_be_visible()
    commands = [page.get_by_role("region", name=f"Publish by {protocol}").inner_text() for protocol in ["MQTT", "HTTP"]]
    check(page, faults, "no devices")
    screenshot(page, "no-devices")
    topics = page.context.new_page()
    topics.goto(url + "#/topics")
    expect(topics.get_by_text("No messages yet.")).to_be_visible()
    for number, command in enumerate(commands, 1):
        subprocess.run(command, shell=True, stdout=subprocess.DEVNULL, check=True)
        expect(page.get_by_role("option", name="truck-1").locator(".num")).to_have_text(str(number))
        expect(topics.get_by_role("treeitem", name=f"engine {number} messages")).to_be_visible()
    topics.close()


def main(page, faults):
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
    # A message that is opened shows what it becomes.
    lines = page.get_by_role("listbox")
    lines.get_by_role("option").filter(has_text="devices/kitchen/light").first.click()
    expect(page.get_by_text("1 row of device kitchen into table light")).to_be_visible()
    expect(page.get_by_role("row", name="id from-mosquitto Utf8 value")).to_be_visible()
    check(page, faults, "a message and its row")
    screenshot(page, "message")

    page.goto(url + "#/topics?follow=devices/kitchen/%23&topic=devices/kitchen/oven")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    form = page.get_by_role("region", name="Publish")
    expect(form.get_by_label("Topic")).to_have_value("devices/kitchen/oven")
    form.get_by_label("Payload").fill('{"celsius": 180}')
    form.get_by_role("button", name="Publish").click()
    expect(form.get_by_text("Committed at telemetry/")).to_be_visible()
    expect(page.get_by_role("option").filter(has_text="devices/kitchen/oven")).to_be_visible()
    check(page, faults, "what was published")

    # What is retained comes first, as the server sends it.
    publish("devices/hall/clock", "12:00", "-r")
    page.goto(url + "#/topics?follow=devices/hall/%23")
    expect(page.get_by_role("option").filter(has_text="devices/hall/clock").get_by_text("retained", exact=True)).to_be_visible()
    check(page, faults, "a retained message")

    # A search is one list, page by page; a page has one topic here.
    short = "**/api/v1/topics?*"
    page.route(short, lambda route: route.continue_(url=route.request.url.replace("limit=500", "limit=1")))
    page.goto(url + "#/topics?search=kitchen/")
    found = tree.get_by_role("treeitem")
    expect(found.filter(has_text="devices/kitchen/light")).to_be_visible()
    expect(found.filter(has_text="devices/kitchen/oven")).to_have_count(0)
    found.filter(has_text="Show more").click()
    expect(found.filter(has_text="devices/kitchen/oven")).to_be_visible()
    expect(found.filter(has_text="Show more")).to_have_count(0)
    page.unroute(short)
    check(page, faults, "a search of topics")
    oven = found.filter(has_text="devices/kitchen/oven")
    before = oven.inner_text()
    publish("devices/kitchen/oven", '{"celsius": 190}')
    expect(oven).not_to_have_text(before)
    page.get_by_role("searchbox", name="Search topics").fill("no such topic")
    expect(page.get_by_text("No topic matches.")).to_be_visible()
    page.get_by_role("searchbox", name="Search topics").fill("")
    expect(tree.get_by_role("treeitem").filter(has_text="devices").first).to_be_visible()

    page.goto(url + "#/sql?q=SELECT%20device,%20oil%20FROM%20engine%20WHERE%20device%20%3D%20'truck-0'%20LIMIT%201")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("columnheader", name="oil")).to_be_visible()
    expect(page.get_by_role("cell", name="92.5").first).to_be_visible()
    tables_of_server = page.get_by_role("region", name="Of the server")
    tables_of_server.get_by_text("alerts", exact=True).first.click()
    expect(tables_of_server.get_by_text("cause_position", exact=True)).to_be_visible()
    check(page, faults, "sql")
    # Rows of their own times: a chart of what goes on has at least ten seconds in view, and a quick test has fewer.
    publish("devices/kiln/firing", '[{"time": "2026-01-01T10:00:00Z", "celsius": 20}, {"time": "2026-01-01T12:00:00Z", "celsius": 900}, {"time": "2026-01-01T14:00:00Z", "celsius": 1240}]')
    page.goto(url + "#/sql?view=chart&q=SELECT%20time,%20celsius%20FROM%20firing%20ORDER%20BY%20time")
    page.get_by_role("button", name="Run").click()
    result = page.get_by_role("img", name="Result")
    expect(result.locator("canvas")).to_be_visible()
    # Its line goes over most of the width, in the first colour of the scheme.
    page.wait_for_function(LINE)
    page.get_by_role("button", name="Table of Result").click()
    points = page.get_by_role("region", name="Result, as a table")
    expect(points.get_by_role("columnheader", name="celsius")).to_be_visible()
    expect(points.get_by_role("row")).to_have_count(1 + 3)
    check(page, faults, "a chart of a query")
    screenshot(page, "sql-chart")

    page.goto(url + "#/devices")
    names = page.get_by_role("listbox", name="Devices")
    expect(names.get_by_role("option", name="truck-1")).to_be_visible()
    expect(names.get_by_role("option", name="gateway-7")).to_be_visible()
    check(page, faults, "devices")
    screenshot(page, "devices")
    page.keyboard.press("Control+k")
    palette = page.get_by_role("dialog", name="Go to")
    palette.get_by_role("combobox").fill("truck-1")
    expect(palette.get_by_role("option").get_by_text("truck-1", exact=True)).to_be_visible()
    check(page, faults, "palette")
    screenshot(page, "palette")
    page.keyboard.press("Escape")
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


def a_binding_with_everything(page, faults):
    """What the form says is what the server has: stream, class, retention, repeats, time, keys, options."""
    number = len(list_of(page, "bindings")["bindings"])
    # Names may have capitals and dots, as in the API.
    name, table = f"Presses.v{number}", f"presses_{number}"
    topic = f"presses-{number}/p1"
    # Before the binding it goes to the stream of all.
    publish(topic, '{"at": "2026-11-26T11:05:00Z", "n": 1, "seq": 40, "bar": 200.5}')
    page.goto(f"{url}#/bindings?edit=%2B")
    form = page.locator("form.form")
    form.get_by_label("Name", exact=True).fill(name)
    form.get_by_label("Topic filter").fill(f"presses-{number}/+")
    form.get_by_label("Device: level of the topic").fill("2")
    form.get_by_role("combobox", name="Table", exact=True).select_option("name")
    form.get_by_label("Name of the table").fill(table)
    form.get_by_role("combobox", name="Decoder", exact=True).select_option("json")
    form.get_by_label("Time field").fill("at")
    form.get_by_label("Key columns").fill("n")
    form.get_by_label("Options of the decoder").fill('{"types": {"n": "int64", "seq": "int64"}}')
    form.get_by_text("Stream, durability, retention, repeats").click()
    form.get_by_label("Stream").fill("raw")
    form.get_by_label("Durability").select_option("leader")
    form.get_by_label("Keep rows for").fill("3650d")
    form.get_by_label("Repeats").select_option("field")
    form.get_by_label("Name of the field").fill("seq")
    form.get_by_label("Ids are known for").fill("5m")
    test = page.get_by_role("region", name="Test", exact=True)
    test.get_by_label("Payload").fill('{"at": "2026-11-26T11:05:07Z", "n": 7, "seq": 41, "bar": 201}')
    expect(test.get_by_role("row", name="n 7 Int64 key")).to_be_visible()
    expect(test.get_by_text("Repeats of it are known by 41.")).to_be_visible()
    check(page, faults, "a binding with all that there is")
    screenshot(page, "binding")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved; new messages take it from now on.")).to_be_visible()
    stored = next(binding for binding in list_of(page, "bindings")["bindings"] if binding["name"] == name)
    said = {
        "filter": f"presses-{number}/+", "stream": "raw", "device_level": 2, "table": {"name": table}, "time_field": "at",
        "decoder": {"format": "json", "types": {"n": "int64", "seq": "int64"}}, "key_columns": ["n"], "class": "leader",
        "retention": "3650d", "dedup": {"field": "seq", "window": "5m"}, "source": "api",
    }
    assert {member: stored[member] for member in said} == said, stored

    for _ in range(2):
        publish(topic, '{"at": "2026-11-26T11:05:07Z", "n": 7, "seq": 41, "bar": 201}')
    assert rows(page, f"SELECT device, n, bar FROM {table}") == [{"device": "p1", "n": 7, "bar": 201}]
    streams = rows(page, f"SELECT stream, count(*) AS n FROM records WHERE topic = '{topic}' GROUP BY stream ORDER BY stream")
    assert streams == [{"stream": "raw", "n": 2}, {"stream": "telemetry", "n": 1}], streams
    page.reload()
    repeats = page.get_by_role("region", name="Bindings").get_by_role("row", name=name).get_by_role("cell").nth(6)
    expect(repeats).to_have_text("1")
    # What came before the binding is in another stream than what it takes now, and is decoded all the same.
    page.get_by_role("button", name="Apply to the whole log").click()
    expect(page.get_by_text("Replay started.")).to_be_visible()
    jobs = page.get_by_role("region", name="Table of replays")
    expect(jobs.locator("tbody tr").first.get_by_text("done")).to_be_visible()
    found = rows(page, f"SELECT n, bar FROM {table} ORDER BY n")
    assert found == [{"n": 1, "bar": 200.5}, {"n": 7, "bar": 201}], found
    check(page, faults, "a binding that was applied")

    # The device of another topic than `devices/…` is followed where it is.
    page.goto(f"{url}#/device/p1")
    page.get_by_role("link", name="Live messages").click()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    publish(f"presses-{number}/p2", '{"n": 8, "seq": 42}')
    publish(topic, '{"n": 9, "seq": 43, "bar": 202}')
    messages = page.get_by_role("listbox").get_by_role("option")
    expect(messages.filter(has_text=topic)).to_contain_text('"bar": 202')
    expect(messages).to_have_count(1)
    check(page, faults, "live messages of a device")

    # Bytes: tried as hex, then seen live.
    page.goto(f"{url}#/bindings?edit=%2B")
    form.get_by_label("Name", exact=True).fill(f"frames-{number}")
    form.get_by_label("Topic filter").fill(f"frames-{number}/+")
    form.get_by_role("combobox", name="Table", exact=True).select_option("name")
    form.get_by_label("Name of the table").fill(f"frame_{number}")
    form.get_by_role("combobox", name="Decoder", exact=True).select_option("struct")
    layout = '{"endian": "big", "fields": [{"type": "i16", "name": "celsius", "scale": 0.1}, {"type": "u8", "name": "door"}]}'
    form.get_by_label("Options of the decoder").fill(layout)
    form.get_by_label("Options of the decoder").blur()
    test.get_by_role("button", name="Hex").click()
    test.get_by_label("Payload").fill("00 d7 01")
    expect(test.get_by_role("row", name="celsius 21.5 Float64 value")).to_be_visible()
    test.get_by_label("Payload").fill("00")
    expect(test.locator("mark")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved; new messages take it from now on.")).to_be_visible()
    check(page, faults, "a binding of bytes")
    page.goto(f"{url}#/topics?follow=frames-{number}/%23")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    publish(f"frames-{number}/f1", b"\x00\xd7\x01")
    publish(f"frames-{number}/f1", b"\xff")
    page.get_by_role("option").filter(has_text="3 bytes: 00 d7 01").click()
    expect(page.get_by_text(f"1 row of device f1 into table frame_{number}")).to_be_visible()
    expect(page.get_by_role("row", name="celsius 21.5 Float64 value")).to_be_visible()
    expect(page.get_by_role("link", name=f"frames-{number}")).to_be_visible()
    page.get_by_role("option").filter(has_text="1 byte: ff").click()
    expect(page.locator("p.bad")).to_be_visible()
    check(page, faults, "bytes and their row")


def rows(page, query):
    answer = page.request.post(f"{url}api/v1/sql", data={"query": query, "format": "json"})
    assert answer.ok, answer.text()
    return answer.json()["rows"]


def list_of(page, what):
    return page.request.get(f"{url}api/v1/{what}").json()


with chromium() as browser:
    with reader(browser, url) as (page, faults):
        the_first_message(page, faults)
    for scheme in ["light", "dark"]:
        # A client with a session, as the page of a device shows it.
        client = ["mosquitto_sub", "-h", "127.0.0.1", "-p", mqtt_port, "-i", "gateway-7", "-c", "-q", "1"]
        subscriber = subprocess.Popen([*client, "-t", "devices/+/orders"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        traffic = Traffic()
        traffic.start()
        try:
            with reader(browser, url, scheme) as (page, faults):
                main(page, faults)
                bindings(page, faults)
                a_binding_with_everything(page, faults)
        finally:
            traffic.over.set()
            traffic.join()
            subscriber.terminate()
            subscriber.wait()
print("all pages are well")
