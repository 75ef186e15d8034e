"""MQTT.js in a web page of a headless Chromium: a WebSocket client with a browser's rules about certificates and origins.

A `Site` is the web server of one origin. `Site.visit` starts a browser with a page of it, whose clients are
`mqttjs.Connection`s with that page as their bridge. A browser cannot do without TLS's checks or forge its origin, which is
what makes it worth testing with.
"""

import http.server
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import tempfile
import threading

from . import PATIENCE_SECONDS, Failure, mqttjs

_HERE = pathlib.Path(__file__).parent

# A cold start reads 250 MB of program from the disk, while others use it.
_START_SECONDS_MAX = 60.0
# How long the page's question for commands stays open.
_QUESTION_SECONDS = 5.0

_PAGE = b"""<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<title>MQTT.js</title>
<script src="/mqtt.min.js"></script>
<script src="/mqttjs_operations.js"></script>
<script src="/browser_page.js"></script>
"""

# Nothing of a user's, nothing over the network but what the page asks for, and no sandbox: it would need rights that root
# in a container lacks, and the one page that is shown is ours.
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def program():
    """The browser: the one that MIDGE_TEST_BROWSER names, or Debian's; None if there is none."""
    names = [os.environ.get("MIDGE_TEST_BROWSER"), "chromium-headless-shell", "chromium"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Site:
    """A web server on a loopback address of its own port, and so an origin of its own."""

    def __init__(self):
        modules = os.environ.get("MIDGE_TEST_NODE_MODULES")
        if not modules:
            raise RuntimeError("MIDGE_TEST_NODE_MODULES must name the node_modules with MQTT.js (tests/run does that)")
        files = {
            "/mqtt.min.js": pathlib.Path(modules) / "mqtt" / "dist" / "mqtt.min.js",
            "/mqttjs_operations.js": _HERE / "mqttjs_operations.js",
            "/browser_page.js": _HERE / "browser_page.js",
        }
        contents = {name: ("text/javascript", path.read_bytes()) for name, path in files.items()}
        contents["/"] = ("text/html", _PAGE)
        site = self
        self.page = None

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body are two writes: the second one must not wait for the first one's acknowledgement.
            disable_nagle_algorithm = True

            def do_GET(self):
                if self.path == "/commands":
                    commands = site.page.commands() if site.page else []
                    self.reply(200, "application/json", json.dumps(commands).encode())
                elif self.path in contents:
                    self.reply(200, *contents[self.path])
                else:
                    self.reply(404, "text/plain", b"")

            def do_POST(self):
                events = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if site.page:
                    for event in events:
                        site.page.on_event(event)
                self.reply(200, "application/json", b"[]")

            def reply(self, status, kind, body):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """A browser that is ended leaves questions open."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.origin = "http://127.0.0.1:{}".format(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def visit(self, trusted_key=None):
        """Opens a page of this site in a new browser; at most one at a time.

        `trusted_key` is the base64 of the SHA-256 of a public key (SubjectPublicKeyInfo): a certificate with that key is
        taken though no authority that the browser knows stands behind it. No other is.
        """
        self.page = Page(trusted_key)
        self.page.load(self.origin + "/")
        return self.page

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


class Page(mqttjs.Bridge):
    """One page in one browser process."""

    name = "MQTT.js in a browser"

    def __init__(self, trusted_key):
        super().__init__()
        self._trusted_key = trusted_key
        self._commands = queue.SimpleQueue()
        self._ready = threading.Event()
        self._process = None
        # What the browser calls itself.
        self.browser = None
        # Errors of the page's own that nobody caught.
        self.troubles = []

    def load(self, url):
        self._directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        output = pathlib.Path(self._directory.name, "output")
        arguments = [program(), *_ARGUMENTS, f"--user-data-dir={self._directory.name}/profile"]
        if self._trusted_key:
            arguments.append(f"--ignore-certificate-errors-spki-list={self._trusted_key}")
        with open(output, "wb") as log:
            # A process group of its own, for its children have to end with it.
            self._process = subprocess.Popen(
                [*arguments, url], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        if not self._ready.wait(_START_SECONDS_MAX):
            said = output.read_text(errors="replace")[-3000:]
            self.close()
            raise Failure(f"the browser did not show the page: {self.troubles}\n{said}")

    def send(self, command):
        self._commands.put(command)

    def commands(self):
        """What the page is to do: waits a while for a command; returns it in a list, which is empty if there was none."""
        try:
            return [self._commands.get(timeout=_QUESTION_SECONDS)]
        except queue.Empty:
            return []

    def on_event(self, event):
        if event["event"] == "ready":
            self.browser = event["browser"]
            self._ready.set()
        elif event["event"] == "trouble":
            self.troubles.append(event["reason"])
        else:
            super().on_event(event)

    def close(self):
        """Ends the browser as if it had crashed: its connections break off."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE_SECONDS)
        self._directory.cleanup()
