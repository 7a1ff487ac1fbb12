"""Checks of build-order."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path


def order(rules, target):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(rules)
        file.flush()
        return subprocess.run(
            [sys.executable, "-I", "/app/order.py", file.name, target],
            capture_output=True,
            text=True,
            timeout=20,
        )


class Order(unittest.TestCase):
    def test_diamond_with_ties(self):
        rules = "# all\nz: b a\n\nb: c\na: c\nother: z\n"
        done = order(rules, "z")
        self.assertEqual(done.stdout.split(), ["c", "a", "b", "z"])
        self.assertEqual(done.returncode, 0)

    def test_ties_are_broken_at_each_point(self):
        rules = "t: m k\nm: a z\nk: b\n"
        self.assertEqual(order(rules, "t").stdout.split(), ["a", "b", "k", "z", "m", "t"])

    def test_circle(self):
        done = order("a: b\nb: c\nc: b\n", "a")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertTrue({"b", "c"} & set(done.stderr.replace(",", " ").split()))

    def test_unknown_and_plain(self):
        self.assertEqual(order("a: b\n", "nothing").returncode, 1)
        self.assertEqual(order("a: b\n", "b").stdout.split(), ["b"])


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
