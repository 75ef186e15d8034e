"""Runs the tests of this directory: `run.py [--counts FILE] [-k PATTERN] [-v]`.

Prints each failure in full, then the slowest cases and one summary line. `--counts FILE` receives
`passed failed skipped` for the command that adds up several runners. The exit code is 0 only if nothing failed and
at least one test ran.
"""

import argparse
import collections
import pathlib
import sys
import time
import unittest

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

from broker import SharedBroker  # noqa: E402
from drivers import mqttjs  # noqa: E402


class Result(unittest.TextTestResult):
    """Counts cases; a case with several failed sub-tests is one failure."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.passed = 0
        self.failed_ids = []
        self.durations = []
        self._started = 0.0

    def startTest(self, test):
        super().startTest(test)
        self._started = time.monotonic()

    def stopTest(self, test):
        super().stopTest(test)
        self.durations.append((time.monotonic() - self._started, test.id()))

    def addSuccess(self, test):
        super().addSuccess(test)
        if test.id() not in self.failed_ids:
            self.passed += 1

    def _add_failed(self, test):
        name = test.id().split(" ")[0] if isinstance(test, unittest.TestCase) else str(test)
        if name not in self.failed_ids:
            self.failed_ids.append(name)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._add_failed(test)

    def addError(self, test, err):
        super().addError(test, err)
        self._add_failed(test)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._add_failed(test)


def main():
    parser = argparse.ArgumentParser(description="Tests with other people's clients.")
    parser.add_argument("--counts", metavar="FILE", help="write `passed failed skipped` to FILE")
    parser.add_argument("-k", metavar="PATTERN", action="append", help="only tests whose name has this in it")
    parser.add_argument("-v", action="store_true", help="name each test")
    options = parser.parse_args()

    loader = unittest.TestLoader()
    if options.k:
        loader.testNamePatterns = [f"*{pattern}*" for pattern in options.k]
    suite = loader.discover(str(HERE), top_level_dir=str(HERE))
    runner = unittest.TextTestRunner(
        stream=sys.stdout, resultclass=Result, verbosity=2 if options.v else 1, buffer=False
    )
    try:
        result = runner.run(suite)
        died = SharedBroker.died()
    finally:
        mqttjs.stop_bridge()
        SharedBroker.stop()

    failed = len(result.failed_ids)
    if died:
        print(died)
        failed = max(failed, 1)
    for reason, count in collections.Counter(reason for _, reason in result.skipped).items():
        print(f"left out {count}: {reason}")
    print("slowest:", ", ".join(f"{name} {s:.1f} s" for s, name in sorted(result.durations)[:-6:-1]))
    for name in result.failed_ids:
        print(f"failed: {name}")
    print(f"clients: {result.passed} of {result.passed + failed} cases passed, {len(result.skipped)} left out")
    if options.counts:
        pathlib.Path(options.counts).write_text(f"{result.passed} {failed} {len(result.skipped)}\n")
    return 0 if failed == 0 and result.passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
