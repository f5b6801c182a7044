"""`floodplain demo` at a desk: it names its console, opens it, and the console shows the fleet. The argument is the program."""

import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time

from playwright.sync_api import expect

from browser import check, chromium, reader, screenshot

program = sys.argv[1]
PATIENCE = 60
# What a desktop has, and this machine need not have: it keeps what it was asked for, and stays, as a browser does.
OPENER = """#!/bin/sh
echo "$1 $$" > "$OPENED.new" && mv "$OPENED.new" "$OPENED"
exec sleep 3600
"""


class Desk:
    """A folder with a browser of its own, first on the search path."""

    def __init__(self, folder):
        self.opened = os.path.join(folder, "opened")
        opener = os.path.join(folder, "xdg-open")
        with open(opener, "w") as file:
            file.write(OPENER)
        os.chmod(opener, 0o755)
        self.environment = {"PATH": f"{folder}:{os.environ['PATH']}", "TERM": "xterm", "DISPLAY": ":0", "OPENED": self.opened, "HOME": folder}

    def what_was_opened(self):
        """Address and process."""
        with open(self.opened) as file:
            url, pid = file.read().split()
        return url, int(pid)


class Terminal:
    """The demo in a terminal."""

    def __init__(self, args, environment):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(program, [program, "demo", *args], environment)
        self.seen = ""

    def read(self):
        """Whether there is more to come."""
        assert select.select([self.fd], [], [], PATIENCE)[0], f"nothing more came after {self.seen!r}"
        try:
            self.seen += os.read(self.fd, 4096).decode()
        except OSError:
            # Linux: the other side is closed.
            return False
        return True

    def line(self, begin):
        while True:
            for line in self.seen.splitlines(keepends=True):
                if line.startswith(begin) and line.endswith("\n"):
                    return line.strip()
            assert self.read(), self.seen

    def end(self):
        while self.read():
            pass
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert status == 0, (status, self.seen)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def the_console_is_opened(desk):
    terminal = Terminal(["--devices", "20", "--rate", "200"], desk.environment)
    browser_pid = None
    try:
        url = terminal.line("Floodplain demo: the console is at http://").split()[-1]
        deadline = time.monotonic() + PATIENCE
        while not os.path.exists(desk.opened):
            assert time.monotonic() < deadline, "no browser was asked"
            time.sleep(0.01)
        opened, browser_pid = desk.what_was_opened()
        assert opened == url, (opened, url)
        the_console_shows_the_fleet(url)
        os.write(terminal.fd, b"\x03")
        terminal.end()
        assert "acknowledged " in terminal.seen, terminal.seen
        assert is_running(browser_pid), "Ctrl-C has ended the browser"
    finally:
        if browser_pid:
            os.kill(browser_pid, signal.SIGKILL)
        os.unlink(desk.opened)


def the_console_shows_the_fleet(url):
    with chromium() as browser, reader(browser, url) as (page, faults):
        page.goto(url)
        messages = page.locator("dl.tiles div", has_text="Messages").locator("dd")
        expect(messages).not_to_have_text("0")
        before = messages.inner_text()
        expect(messages).not_to_have_text(before)
        check(page, faults, "overview of the demo")
        screenshot(page, "demo")
        page.goto(f"{url}#/devices?search=motor-")
        names = page.get_by_role("listbox", name="Devices")
        names.get_by_role("option").first.click()
        expect(page.get_by_role("img", name="Values of motor-")).to_be_visible()
        check(page, faults, "a device of the demo")
        page.goto(f"{url}#/topics?follow=%23")
        expect(page.get_by_role("listbox").get_by_role("option").nth(3)).to_be_visible()
        page.goto(f"{url}#/alerts")
        expect(page.get_by_role("region", name="Alert worn-bearing")).to_be_visible()
        check(page, faults, "alerts of the demo")


def nothing_is_opened(desk):
    for args, more in [(["--no-open"], {}), ([], {"CI": "true"})]:
        terminal = Terminal([*args, "--devices", "4", "--duration", "1s"], desk.environment | more)
        terminal.end()
        assert "the console is at http://" in terminal.seen, terminal.seen
        assert not os.path.exists(desk.opened), (args, more)
    # What nobody reads opens nothing either; its first line is the same.
    output = subprocess.run([program, "demo", "--devices", "4", "--duration", "1s"], env=desk.environment, capture_output=True, text=True)
    assert output.returncode == 0, output
    assert output.stdout.startswith("Floodplain demo: the console is at http://127.0.0.1:"), output
    assert not os.path.exists(desk.opened)


with tempfile.TemporaryDirectory() as folder:
    desk = Desk(folder)
    the_console_is_opened(desk)
    nothing_is_opened(desk)
print("the console is one step away")
