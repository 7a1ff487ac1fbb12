"""Checks of redact-log."""

import subprocess
import sys
import unittest
from pathlib import Path

CASES = [
    ("mail to ann.b+x@mail.example.org.", "mail to <mail>."),
    ("<joe@x-y.io>,eve@z.de", "<<mail>>,<mail>"),
    ("not@home, @nobody, a@b.c1, user@host", "not@home, @nobody, a@b.c1, user@host"),
    ("paid 4111111111111111 ok", "paid <card>1111 ok"),
    ("4111-2222-3333-4444;4111 2222 3333 4445", "<card>4444;<card>4445"),
    ("id 41111111111111112 and 411111111111111", "id 41111111111111112 and 411111111111111"),
    ("4111  2222 3333 4444", "4111  2222 3333 4444"),
    ("GET /?token=abc123&x=1 password=s3cr=t! end", "GET /?token=***&x=1 password=*** end"),
    ("PassWord=x TOKEN= y", "PassWord=*** TOKEN= y"),
    ("", ""),
    ("grüße an müller", "grüße an müller"),
]


class Redact(unittest.TestCase):
    def test_all_lines_at_once(self):
        text = "\n".join(before for before, _ in CASES)
        done = subprocess.run(
            [sys.executable, "-I", "/app/redact.py"],
            input=text.encode(),
            capture_output=True,
            timeout=20,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.decode().split("\n"), [after for _, after in CASES])


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
