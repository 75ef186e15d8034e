#!/usr/bin/env python3
"""Cuts the power of a busy broker's disk again and again, and counts what was promised and is not there.

    tests/durability/powercut.py [--rounds N] [--shards N] [--seed N] MIDGE

As kill.py, but what the kernel had not brought to the device when the cut came is gone. The data directory is on an ext4 file
system in an image file, behind a loop device that goes past the page cache (`losetup --direct-io=on`), so that the image holds
just what reached the device. The image lies on a second such file system. To cut the power that outer one is frozen
(FIFREEZE): from that moment no write reaches the image, and nothing that waits for one is acknowledged; the image is copied;
the broker is killed; the next start is on the copy, whose journal the kernel replays as after any power cut.

Not tried by this: a device that forgets what it had taken and not flushed, or that tears a sector. The disks in memory of
`midge-store` and the simulator do that.

Needs Linux, root and loop devices. Where it cannot run it says why, and ends with exit code 77. Otherwise the exit code is 0
when all counts are zero.
"""

import ctypes
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
import kill  # noqa: E402

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
CLONE_NEWNS = 0x00020000
CANNOT_RUN = 77

# Two shards keep up to three segments of 64 MiB each; both images are sparse.
INNER_BYTES = 1 << 30
OUTER_BYTES = (1 << 30) + (256 << 20)


def run(*command):
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


class Volume:
    """A file system in an image file, mounted."""

    def __init__(self, image, mount_point):
        self.image, self.mount_point, self.device = image, mount_point, None

    def make(self, size):
        with open(self.image, "wb") as file:
            file.truncate(size)
        run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0", self.image)

    def mount(self):
        os.makedirs(self.mount_point, exist_ok=True)
        self.device = run("losetup", "--find", "--show", "--direct-io=on", self.image)
        wanted = run("losetup", "--noheadings", "--output", "DIO", self.device)
        if wanted != "1":
            raise OSError(f"{self.device} does not go past the page cache")
        run("mount", self.device, self.mount_point)

    def unmount(self):
        if self.device:
            # Who was killed may take a moment to let go.
            for _ in range(100):
                done = subprocess.run(["umount", self.mount_point], check=False, capture_output=True)
                if done.returncode == 0 or b"not mounted" in done.stderr:
                    break
                time.sleep(0.05)
            subprocess.run(["losetup", "--detach", self.device], check=False)
            self.device = None

    def freeze(self, how):
        directory = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, how, 0)
        finally:
            os.close(directory)


class Broker(kill.Broker):
    """A broker whose disk loses its power instead of only being killed."""

    def __init__(self, program, directory, shards):
        super().__init__(program, directory, shards)
        self.outer = Volume(os.path.join(directory, "outer.img"), os.path.join(directory, "outer"))
        self.outer.make(OUTER_BYTES)
        self.outer.mount()
        self.copy = os.path.join(directory, "copy.img")
        inner = os.path.join(self.outer.mount_point, "inner.img")
        self.inner = Volume(inner, os.path.join(directory, "inner"))
        self.inner.make(INNER_BYTES)
        self.inner.mount()
        self.command[self.command.index("--data-dir") + 1] = os.path.join(
            self.inner.mount_point, "data"
        )
        self.cuts = 0

    def kill(self):
        """The power goes."""
        self.outer.freeze(FIFREEZE)
        try:
            run("cp", "--sparse=always", self.inner.image, self.copy)
            self.process.kill()
        finally:
            self.outer.freeze(FITHAW)
        self.process.wait()
        self.inner.unmount()
        run("cp", "--sparse=always", self.copy, self.inner.image)
        # As after a power cut: the journal is replayed.
        self.inner.mount()
        self.cuts += 1

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.inner.unmount()
        self.outer.unmount()


def own_mounts():
    """Mounts from here on are nobody else's, and go with this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "cannot have mounts of its own")
    run("mount", "--make-rprivate", "/")


def main():
    options = kill.options_for(__doc__.splitlines()[0]).parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    if os.geteuid() != 0:
        print("skipped: only root may mount")
        sys.exit(CANNOT_RUN)
    directory = tempfile.mkdtemp(prefix="midge-power-", dir=options.directory)
    broker = None
    # Ended from outside, it takes its mounts and loop devices along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        try:
            own_mounts()
            broker = Broker(options.program, directory, options.shards)
        except OSError as error:
            print(f"skipped: {error}")
            sys.exit(CANNOT_RUN)
        failed = kill.trial(broker, options, random.Random(seed), seed)
        print(f"{broker.cuts} power cuts")
    finally:
        if broker:
            broker.end()
        if options.keep:
            print(directory)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
