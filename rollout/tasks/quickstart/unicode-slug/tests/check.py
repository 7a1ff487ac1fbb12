"""Checks of unicode-slug."""

import importlib
import sys
import unittest
from pathlib import Path

sys.path.insert(0, "/app")


class Slug(unittest.TestCase):
    def setUp(self):
        self.slug = importlib.import_module("slug").slug

    def test_titles(self):
        for title, expected in {
            "Hello, World!": "hello-world",
            "  Café \u2014 cre\u0300me  ": "cafe-creme",
            "Stra\u00dfe 7": "strasse-7",
            "\ufb01ne \uff21\uff22\uff23": "fine-abc",
            "Rock'n'Roll isn\u2019t 'dead'": "rocknroll-isnt-dead",
            "\u041c\u0438\u0440, \u0434\u0430": "\u043c\u0438\u0440-\u0434\u0430",
            "\u6771\u4eac 2026": "\u6771\u4eac-2026",
            "C++ & C#": "c-c",
            "__init__.py": "init-py",
            "\u2603 !!": "untitled",
            "": "untitled",
        }.items():
            with self.subTest(title=title):
                self.assertEqual(self.slug(title), expected)

    def test_limit(self):
        self.assertEqual(self.slug("one two three", limit=9), "one-two")
        self.assertEqual(self.slug("one two three", limit=7), "one-two")
        self.assertEqual(self.slug("one two three", limit=6), "one")
        self.assertEqual(self.slug("extraordinary", limit=5), "extra")
        self.assertEqual(self.slug("one two", limit=100), "one-two")


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
