"""Checks of lru-cache."""

import importlib
import sys
import unittest
from pathlib import Path

sys.path.insert(0, "/app")


class Lru(unittest.TestCase):
    def setUp(self):
        self.new = importlib.import_module("cache").Cache

    def test_get_and_default(self):
        cache = self.new(2)
        cache.put("a", None)
        self.assertIsNone(cache.get("a", 5))
        self.assertEqual(cache.get("b", 5), 5)
        self.assertIsNone(cache.get("b"))

    def test_oldest_is_dropped(self):
        cache = self.new(2)
        for key in "abc":
            cache.put(key, key.upper())
        self.assertEqual(list(cache.keys()), ["b", "c"])
        self.assertEqual(len(cache), 2)

    def test_get_counts_as_use(self):
        cache = self.new(2)
        cache.put("a", 1)
        cache.put("b", 2)
        cache.get("a")
        cache.put("c", 3)
        self.assertEqual(list(cache.keys()), ["a", "c"])

    def test_replacing_counts_as_use_and_drops_nothing(self):
        cache = self.new(2)
        cache.put("a", 1)
        cache.put("b", 2)
        cache.put("a", 3)
        self.assertEqual(list(cache.keys()), ["b", "a"])
        self.assertEqual(cache.get("a"), 3)

    def test_asking_is_no_use(self):
        cache = self.new(2)
        cache.put("a", 1)
        cache.put("b", 2)
        self.assertIn("a", cache)
        cache.put("c", 3)
        self.assertNotIn("a", cache)

    def test_a_miss_changes_nothing(self):
        cache = self.new(1)
        cache.put("a", 1)
        cache.get("x")
        self.assertEqual(list(cache.keys()), ["a"])

    def test_size_must_be_positive(self):
        for size in (0, -3):
            with self.assertRaises(ValueError):
                self.new(size)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
