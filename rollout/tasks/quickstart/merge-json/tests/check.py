"""Checks of merge-json."""

import unittest
from pathlib import Path

EXPECTED = """{
  "debug": true,
  "limits": {
    "disk": "3G"
  },
  "log": {
    "colour": {
      "on": false
    },
    "files": [
      "site.log"
    ],
    "level": "warning"
  },
  "name": "café",
  "owner": {
    "mail": "ops@example.org",
    "team": "Zürich"
  },
  "port": 9000
}
"""


class Merged(unittest.TestCase):
    def test_text(self):
        self.assertEqual(Path("/app/merged.json").read_bytes().decode(), EXPECTED)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
