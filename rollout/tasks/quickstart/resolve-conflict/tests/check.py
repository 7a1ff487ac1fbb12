"""Checks of resolve-conflict."""

import unittest
from pathlib import Path

EXPECTED = """# Settings of the mail service
[server]
host = 0.0.0.0
port = 2525
workers = 4
tls = required

[queue]
retries = 5
delay = 60
path = /var/spool/mail

[log]
level = info
"""


class Resolved(unittest.TestCase):
    def test_text(self):
        self.assertEqual(Path("/app/service.conf").read_text(), EXPECTED)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
