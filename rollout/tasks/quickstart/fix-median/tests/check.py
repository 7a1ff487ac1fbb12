"""Checks of fix-median."""

import importlib
import sys
import unittest
from pathlib import Path

sys.path.insert(0, "/app")


class Median(unittest.TestCase):
    def setUp(self):
        self.median = importlib.import_module("stats").median

    def test_odd_count(self):
        self.assertEqual(self.median([9, 1, 5]), 5)

    def test_even_count(self):
        self.assertEqual(self.median([4, 1, 3, 2]), 2.5)

    def test_one_value(self):
        self.assertEqual(self.median([7]), 7)

    def test_list_is_left_as_it_was(self):
        values = [3, 1, 2]
        self.median(values)
        self.assertEqual(values, [3, 1, 2])

    def test_generator(self):
        self.assertEqual(self.median(x for x in (5, 1, 2, 2)), 2)

    def test_nothing(self):
        for nothing in ([], iter(())):
            with self.assertRaises(ValueError):
                self.median(nothing)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
