"""The systemd unit: that systemd understands it, that it exposes little, and that the broker serves under what it permits.

No service manager runs here. What it would do to the process before the first instruction is done by this test: another
user, no capabilities, no new privileges, and the unit's own list of system calls, by the library that systemd uses.
"""

import ctypes
import ctypes.util
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import tempfile
import unittest

from broker import PATIENCE_SECONDS, Midge, binary, given_address
from drivers import Publication, paho

UNIT = pathlib.Path(__file__).parents[2] / "configs" / "midge.service"

# Of 10: what `systemd-analyze security` calls safe is below 2.
EXPOSURE_MAX = 2.0

NOBODY = 65534
PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24
EPERM = 1


def settings(key):
    """The values of a key of the unit, in order."""
    lines = UNIT.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def system_call_sets():
    """Every set of system calls that systemd knows, by name."""
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    ).stdout
    sets, current = {}, None
    for line in text.splitlines():
        line = line.split("#")[0].rstrip()
        if line.startswith("@"):
            current = sets.setdefault(line, [])
        elif line.startswith("    ") and current is not None:
            current.append(line.strip())
    return sets


def resolve(names, sets):
    calls = set()
    for name in names:
        calls |= resolve(sets[name], sets) if name.startswith("@") else {name}
    return calls


def permitted_calls():
    """What the unit permits: its first list, without what the next one takes away."""
    sets = system_call_sets()
    permitted = resolve(["@default"], sets)
    for value in settings("SystemCallFilter"):
        calls = resolve(value.lstrip("~").split(), sets)
        permitted = permitted - calls if value.startswith("~") else permitted | calls
    return permitted


class Filter:
    """Of system calls: those that are not in the list fail with EPERM."""

    ALLOW = 0x7FFF0000
    REFUSE = 0x00050000 | EPERM

    def __init__(self, calls):
        self.library = ctypes.CDLL(ctypes.util.find_library("seccomp"), use_errno=True)
        self.library.seccomp_init.restype = ctypes.c_void_p
        self.context = ctypes.c_void_p(self.library.seccomp_init(self.REFUSE))
        for call in calls:
            number = self.library.seccomp_syscall_resolve_name(call.encode())
            # Negative: of other machines.
            if number >= 0:
                added = self.library.seccomp_rule_add(self.context, self.ALLOW, number, 0)
                if added != 0:
                    raise OSError(-added, call)

    def load(self):
        loaded = self.library.seccomp_load(self.context)
        if loaded != 0:
            raise OSError(-loaded, "seccomp_load")


@unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd-analyze")
class Unit(unittest.TestCase):
    def directory(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return pathlib.Path(directory.name)

    def analyze(self, *arguments):
        return subprocess.run(
            ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )

    def test_systemd_understands_it(self):
        directory = self.directory()
        # Where it will be installed there is no program yet.
        copy = directory / "midge.service"
        copy.write_text(UNIT.read_text().replace("/usr/bin/midge", "/bin/true"))
        done = self.analyze("verify", str(copy))
        # Other units of the machine may have faults of their own.
        ours = [line for line in (done.stdout + done.stderr).splitlines() if "midge.service" in line]
        self.assertEqual(ours, [])

    def test_it_exposes_little(self):
        done = self.analyze("security", "--offline=yes", str(UNIT))
        found = re.search(r"Overall exposure level for midge.service: ([0-9.]+)", done.stdout)
        self.assertIsNotNone(found, done.stderr)
        self.assertLessEqual(float(found[1]), EXPOSURE_MAX)

    def test_it_permits_what_the_broker_needs_to_close_itself_in(self):
        calls = permitted_calls()
        for name in ["io_uring_setup", "io_uring_enter", "io_uring_register", "seccomp"]:
            self.assertIn(name, calls)
        for name in ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"]:
            self.assertIn(name, calls)
        for name in ["mount", "ptrace", "bpf", "init_module", "kexec_load", "reboot", "setuid", "keyctl", "chroot"]:
            self.assertNotIn(name, calls)

    @unittest.skipIf(given_address(), "the tests were pointed at a running broker")
    @unittest.skipUnless(ctypes.util.find_library("seccomp"), "no libseccomp")
    def test_the_broker_serves_under_it(self):
        directory = self.directory()
        as_root = os.geteuid() == 0
        if as_root:
            # The program and its directories for a user who may nothing.
            program = directory / "midge"
            shutil.copy(binary(), program)
            os.chmod(program, 0o755)
            os.chmod(directory, 0o755)
            for name in ["data", "run"]:
                (directory / name).mkdir()
                os.chown(directory / name, NOBODY, NOBODY)
            self.assertEqual(pwd.getpwuid(NOBODY).pw_uid, NOBODY)
        program = directory / "midge" if as_root else pathlib.Path(binary())
        configuration = directory / "midge.yaml"
        configuration.write_text(
            "listeners: [{address: '127.0.0.1:0'}]\n"
            f"durability: {{directory: {directory / 'data'}}}\n"
            f"runtime: {{directory: {directory / 'run'}}}\n"
        )
        filter_ = Filter(permitted_calls())
        system = ctypes.CDLL(None, use_errno=True)

        def as_systemd_does():
            if as_root:
                for capability in range(64):
                    system.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os.umask(0o077)
            system.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            filter_.load()

        def start():
            midge = Midge(
                "serve",
                "--config",
                str(configuration),
                "--shards",
                "2",
                preexec=as_systemd_does,
                directory="/",
                program=str(program),
            )
            self.addCleanup(midge.stop)
            return midge

        midge = start()
        address = midge.addresses()[0]
        status = pathlib.Path(f"/proc/{midge.process.pid}/status").read_text()
        self.assertRegex(status, r"NoNewPrivs:\s*1")
        self.assertRegex(status, r"Seccomp:\s*2")
        if as_root:
            self.assertRegex(status, r"CapEff:\s*0+\n")
            self.assertRegex(status, rf"Uid:\s*{NOBODY}\s")
        # The program's own rules come on top of the unit's.
        self.assertIn("(seccomp)", midge.output)
        receiver = paho.Connection(5, address, "receiver")
        self.addCleanup(receiver.close)
        receiver.subscribe([("t/#", 1)])
        sender = paho.Connection(5, address, "sender")
        self.addCleanup(sender.close)
        sender.publish(Publication("t/1", b"x", 1, retain=True))
        self.assertEqual([m.payload for m in receiver.wait_for(1)], [b"x"])
        midge.stop()
        self.assertEqual(midge.process.returncode, 0, midge.output)
        # What was acknowledged is on the disk.
        again = start()
        late = paho.Connection(5, again.addresses()[0], "late")
        self.addCleanup(late.close)
        late.subscribe([("t/#", 1)])
        self.assertEqual([m.payload for m in late.wait_for(1)], [b"x"])


if __name__ == "__main__":
    unittest.main()
