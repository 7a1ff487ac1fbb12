"""Checks of csv-totals."""

import unittest
from pathlib import Path

EXPECTED = ["region,orders,revenue", "East,2,3.35", "North,2,280.97", "South,2,301.11"]


class Totals(unittest.TestCase):
    def test_lines(self):
        self.assertEqual(Path("/app/totals.csv").read_text().splitlines(), EXPECTED)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
