"""Checks of cron-match."""

import importlib
import sys
import unittest
from datetime import datetime
from pathlib import Path

sys.path.insert(0, "/app")

TUESDAY = datetime(2026, 3, 31, 14, 45, 12)
SUNDAY = datetime(2026, 11, 1, 0, 0)


class Cron(unittest.TestCase):
    def setUp(self):
        self.matches = importlib.import_module("cron").matches

    def check(self, moment, expected, lines):
        for line in lines:
            with self.subTest(line=line):
                self.assertIs(bool(self.matches(line, moment)), expected)

    def test_due(self):
        self.check(
            TUESDAY,
            True,
            [
                "* * * * *",
                "45 14 31 3 2",
                "*/15 * * * *",
                "5,45 8-18/2 * MAR tue",
                "40-50/5 14 * jan-apr mon-fri",
                "45 14 1 * 2",
                "45 14 31 * 5",
                "45  14\t31 3 *",
            ],
        )

    def test_not_due(self):
        self.check(
            TUESDAY,
            False,
            [
                "44 * * * *",
                "*/7 * * * *",
                "45 9-17/2 * * *",
                "45 14 * * mon,wed-sat",
                "45 14 1 * 5",
                "45 14 */2 * 5",
                "45 14 31 * */3",
                "45 14 1 * *",
                "45 14 31 4 2",
            ],
        )

    def test_both_names_of_sunday(self):
        self.check(SUNDAY, True, ["0 0 * * 0", "0 0 * * 7", "0 0 * * Sun", "0 0 * * 5-7"])
        self.check(SUNDAY, False, ["0 0 * * 1-6", "0 0 2 * mon"])

    def test_what_is_no_cron_line(self):
        for line in (
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "5/2 * * * *",
            "1,,2 * * * *",
            "1- * * * *",
            "x * * * *",
            "* * jan * *",
            "-1 * * * *",
        ):
            with self.subTest(line=line), self.assertRaises(ValueError):
                self.matches(line, TUESDAY)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
