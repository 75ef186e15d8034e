"""Debian's HAProxy in front of a broker."""

import os
import pathlib
import shutil
import socket
import subprocess

from broker import PATIENCE_SECONDS


def program():
    """The path of HAProxy; None if it is not there. Debian has it where not every user looks."""
    return shutil.which("haproxy") or (os.path.exists("/usr/sbin/haproxy") and "/usr/sbin/haproxy") or None


class HaProxy:
    """A running HAProxy. `fronts` are, by name, the options of a `bind` line and those of the `server` line behind it."""

    def __init__(self, directory, fronts):
        # HAProxy takes a listening socket that is open already: so the kernel chooses the port.
        listening = {name: socket.create_server(("127.0.0.1", 0)) for name in fronts}
        self.addresses = {name: one.getsockname() for name, one in listening.items()}
        sections = [
            f"listen {name}\n  mode tcp\n  bind fd@{listening[name].fileno()} {bind}\n  server midge {server}\n"
            for name, (bind, server) in fronts.items()
        ]
        path = pathlib.Path(directory) / "haproxy.cfg"
        path.write_text(
            "global\n  maxconn 100\ndefaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
            + "".join(sections)
        )
        with open(pathlib.Path(directory) / "haproxy.log", "wb") as log:
            self._process = subprocess.Popen(
                [program(), "-db", "-f", str(path)],
                pass_fds=[one.fileno() for one in listening.values()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for one in listening.values():
            one.close()

    def stop(self):
        self._process.terminate()
        self._process.wait(PATIENCE_SECONDS)
