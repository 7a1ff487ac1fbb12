"""Checks of access-log-report."""

import re
import unittest
from collections import Counter
from pathlib import Path

REQUEST = re.compile(r'(\S+) .*"[A-Z]+ [^"]*" (\d{3}) ')


class Report(unittest.TestCase):
    def test_report(self):
        log = Path("/tests/access.log").read_text()
        found = filter(None, map(REQUEST.match, log.splitlines()))
        counts = Counter(hit[1] for hit in found if 200 <= int(hit[2]) <= 399)
        order = sorted(counts, key=lambda address: (-counts[address], address.encode()))
        expected = [f"{counts[address]} {address}" for address in order]
        self.assertEqual(Path("/app/report.txt").read_text().splitlines(), expected)

    def test_log_is_untouched(self):
        self.assertEqual(
            Path("/app/access.log").read_bytes(), Path("/tests/access.log").read_bytes()
        )


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
