"""`floodplain sql` in a terminal: completion, lines, commands, cancelling, history."""

import os
import pty
import select
import stat
import sys
import time
import urllib.request

program, url, home = sys.argv[1:]
PATIENCE = 60


class Terminal:
    def __init__(self):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            environment = {"HOME": home, "PATH": os.environ["PATH"], "TERM": "xterm"}
            os.execve(program, [program, "sql", "--url", url], environment)
        self.seen = ""
        self.expect("floodplain> ")

    def expect(self, *texts):
        """Waits until all texts have come, in this order; drops what is before their end."""
        deadline = time.monotonic() + PATIENCE
        for text in texts:
            while text not in self.seen:
                left = deadline - time.monotonic()
                assert left > 0, f"{text!r} did not come: {self.seen!r}"
                if select.select([self.fd], [], [], left)[0]:
                    self.seen += os.read(self.fd, 4096).decode()
            self.seen = self.seen[self.seen.index(text) + len(text):]

    def send(self, keys, *expected):
        os.write(self.fd, keys.encode())
        self.expect(*expected)

    def end(self):
        status = os.waitpid(self.pid, 0)[1]
        assert os.waitstatus_to_exitcode(status) == 0, status


def running():
    with urllib.request.urlopen(f"{url}/metrics") as metrics:
        lines = metrics.read().decode().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("floodplain_sql_running_queries "))


def wait_until_running(count):
    deadline = time.monotonic() + PATIENCE
    while running() != count:
        assert time.monotonic() < deadline, f"{running()} queries are running, not {count}"
        time.sleep(0.01)


prompt = "floodplain> "
terminal = Terminal()
terminal.send("SELECT rp\t", "rpm ")
terminal.send("FROM eng\t", "engine ")
terminal.send("ORDER BY 1;\r", "\r\nrpm", "\r\n1.5", "\r\n5.5", prompt)
terminal.send("SELECT 40 + 2\r", "... ")
terminal.send("AS answer;\r", "\r\nanswer", "42", prompt)
terminal.send("SELECT 'ä' || ';' AS twxt\x1b[D\x1b[D\x7fe\x05;\r", "\r\ntext", "ä;", prompt)
terminal.send("\\dt\r", "devices", "engine", "BASE TABLE", prompt)
terminal.send("\\d engine\r", "device", "text", "rpm", "double precision", prompt)
terminal.send("\\d nothing\r", "there is no table nothing", prompt)
terminal.send("\\nope\r", "there is no command \\nope", prompt)
terminal.send("SELECT nothing FROM engine;\r", "floodplain: ", "nothing", prompt)
terminal.send("half a query\x03", "^C", prompt)
terminal.send("\\timing\r", "timing is on", prompt)
terminal.send("SELECT 7 AS seven;\r", "\r\nseven", "7", " ms", prompt)
wait_until_running(0)
os.write(terminal.fd, b"SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 8;\r")
wait_until_running(1)
terminal.send("\x03", "cancelled", prompt)
wait_until_running(0)
# The query before the last, from the history.
terminal.send("\x1b[A\x1b[A\r", "\r\nseven", "7", prompt)
terminal.send("\\q\r")
terminal.end()

history = os.path.join(home, ".local/state/floodplain/sql_history")
assert stat.S_IMODE(os.stat(history).st_mode) == 0o600
terminal = Terminal()
terminal.send("\x1b[A\x1b[A", "SELECT 7 AS seven;")
terminal.send("\r", "\r\nseven", prompt)
terminal.send("\x04")
terminal.end()
print("all good")
