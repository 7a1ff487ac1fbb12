"""Checks of dotenv-parser."""

import importlib
import sys
import unittest
from pathlib import Path

sys.path.insert(0, "/app")

TEXT = r"""
# settings
HOST = example.org   # the host
export PORT=8080
EMPTY=
URL=http://${HOST}:${PORT}/#top
SINGLE='a ${HOST} \n #x'   # done
DOUBLE="a\t\"b\" \\ \${HOST} ${HOST}
second"
  _x1 =  two words
HOST=other
NOTHING=<${MISSING}>
"""
EXPECTED = {
    "HOST": "other",
    "PORT": "8080",
    "EMPTY": "",
    "URL": "http://example.org:8080/#top",
    "SINGLE": "a ${HOST} \\n #x",
    "DOUBLE": 'a\t"b" \\ ${HOST} example.org\nsecond',
    "_x1": "two words",
    "NOTHING": "<>",
}


class Dotenv(unittest.TestCase):
    def setUp(self):
        self.parse = importlib.import_module("dotenv").parse

    def test_values_and_order(self):
        found = self.parse(TEXT)
        self.assertEqual(found, EXPECTED)
        self.assertEqual(list(found), list(EXPECTED))

    def test_nothing(self):
        self.assertEqual(self.parse(""), {})
        self.assertEqual(self.parse("\n  # only this"), {})

    def test_faults(self):
        for text, line in (
            ("A=1\n2B=3", 2),
            ("A=1\n\njust words", 3),
            ("A='x\ny\nB=1", 1),
            ('A=1\nB="x" y', 2),
            ("A-B=1", 1),
            ("=1", 1),
            ('X="1\n2"\nY', 3),
        ):
            with self.subTest(text=text), self.assertRaisesRegex(ValueError, rf"line {line}\b"):
                self.parse(text)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
