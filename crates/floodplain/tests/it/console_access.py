"""The console and who may use it, in Chromium: arguments are the address of a server that nobody has claimed, and its setup link."""

import sys
import urllib.error
import urllib.request

from playwright.sync_api import expect

from browser import check, chromium, reader, screenshot

url, link = sys.argv[1:]
ANNA, BERT = "a password of anna", "a password of bert"


def status_with(token):
    """What the server answers to who has this token."""
    request = urllib.request.Request(f"{url}api/v1/overview", headers={"Authorization": f"Bearer {token}"})
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code


def log_in(page, user, password):
    page.get_by_label("User").fill(user)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def set_up(page, faults):
    page.goto(f"{url}#/users")
    expect(page.get_by_text("No user exists yet")).to_be_visible()
    check(page, faults, "users of an unclaimed server")
    page.goto(link)
    page.get_by_label("User").fill("anna")
    page.get_by_label("Password", exact=True).fill(ANNA)
    page.get_by_label("Password again").fill("another one, really")
    page.get_by_role("button", name="Create user").click()
    expect(page.get_by_text("The two passwords differ.")).to_be_visible()
    page.get_by_label("Password again").fill(ANNA)
    check(page, faults, "setup")
    screenshot(page, "setup")
    page.get_by_role("button", name="Create user").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    assert page.url == f"{url}#/overview", page.url


def users_and_tokens(page, faults):
    page.goto(f"{url}#/users")
    users = page.get_by_role("region", name="Table of users")
    expect(users.get_by_role("row", name="anna")).to_be_visible()
    page.get_by_label("New user", exact=True).fill("bert")
    page.get_by_label("Password of the new user").fill(BERT)
    page.get_by_label("Role of the new user").select_option("editor")
    page.get_by_role("button", name="Create user").click()
    expect(page.get_by_text("User created.")).to_be_visible()
    expect(users.get_by_label("Role of bert")).to_have_value("editor")
    users.get_by_label("Role of bert").select_option("viewer")
    expect(page.get_by_text("Role changed.")).to_be_visible()

    tokens = page.get_by_role("region", name="Table of tokens")
    page.get_by_label("Name of the token").fill("grafana")
    page.get_by_label("Days until it expires").fill("7")
    page.get_by_role("button", name="Create token").click()
    token = page.get_by_role("region", name="New token").inner_text()
    expect(tokens.get_by_role("row", name="grafana viewer")).to_be_visible()
    assert status_with(token) == 200, token
    check(page, faults, "users and tokens")
    screenshot(page, "users")
    tokens.get_by_role("button", name="Delete grafana").click()
    tokens.get_by_role("button", name="Delete grafana?").click()
    expect(tokens.get_by_role("row", name="grafana")).to_have_count(0)
    assert status_with(token) == 401


def a_viewer(page, faults):
    """Who logs in comes to where the link led, and is offered what the role allows."""
    page.goto(f"{url}#/topics?follow=devices/%23")
    expect(page.get_by_role("heading", name="Log in to Floodplain")).to_be_visible()
    log_in(page, "bert", "not the password")
    expect(page.get_by_role("alert").get_by_text("login_failed")).to_be_visible()
    # The page's own questions were answered so before anybody had logged in: that is how it knows.
    faults[:] = [fault for fault in faults if "/api/v1/login" in fault or "status of 401 " not in fault]
    check(page, faults, "a wrong password", [(401, "/api/v1/login")])
    log_in(page, "bert", BERT)
    expect(page.get_by_role("heading", name="Topics")).to_be_visible()
    assert page.url == f"{url}#/topics?follow=devices/%23", page.url
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.get_by_role("region", name="Publish")).to_have_count(0)
    check(page, faults, "topics of a viewer")
    page.goto(f"{url}#/bindings?edit=default")
    # To try what a payload becomes changes nothing, so a viewer may.
    expect(page.get_by_text("1 row of device truck-7 into table engine")).to_be_visible()
    expect(page.get_by_role("button", name="New binding")).to_have_count(0)
    page.goto(f"{url}#/users")
    expect(page.get_by_text("Only an administrator sees users and tokens.")).to_be_visible()
    check(page, faults, "users of a viewer")


def roles(anna, bert):
    (admin, _), (page, faults) = anna, bert
    admin.goto(f"{url}#/users")
    admin.get_by_label("Role of bert").select_option("editor")
    expect(admin.get_by_text("Role changed.")).to_be_visible()
    page.goto(f"{url}#/topics?topic=devices/truck-7/engine&follow=devices/%23")
    page.reload()
    form = page.get_by_role("region", name="Publish")
    form.get_by_label("Payload").fill('{"rpm": 1450}')
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    form.get_by_role("button", name="Publish").click()
    expect(form.get_by_text("Committed at telemetry/")).to_be_visible()
    expect(page.get_by_role("option").filter(has_text="devices/truck-7/engine")).to_be_visible()
    check(page, faults, "an editor publishes")

    # Who is removed is out at once: the stream ends, and the page asks for a login.
    admin.get_by_role("button", name="Delete bert").click()
    admin.get_by_role("button", name="Delete bert?").click()
    expect(admin.get_by_text("bert is gone.")).to_be_visible()
    expect(page.get_by_role("heading", name="Log in to Floodplain")).to_be_visible()


def log_out(page, faults):
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in to Floodplain")).to_be_visible()
    faults.clear()
    # The link has made its user, and makes no other.
    page.goto(link)
    page.get_by_label("User").fill("mallory")
    page.get_by_label("Password", exact=True).fill(BERT)
    page.get_by_label("Password again").fill(BERT)
    page.get_by_role("button", name="Create user").click()
    expect(page.get_by_role("alert").get_by_text("setup_done")).to_be_visible()
    check(page, faults, "a link that was used", [(409, "/api/v1/setup")])


with chromium() as browser, reader(browser, url) as anna, reader(browser, url, "dark") as bert:
    set_up(*anna)
    users_and_tokens(*anna)
    a_viewer(*bert)
    roles(anna, bert)
    log_out(*anna)
print("everybody may what they may")
