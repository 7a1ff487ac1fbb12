"""Checks of lost-updates."""

import importlib
import sys
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, "/app")


def together(*jobs):
    """Run all at once; whether all came to an end."""
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


class Transfers(unittest.TestCase):
    def setUp(self):
        self.bank = importlib.import_module("bank")

    def test_nothing_is_lost_in_either_direction(self):
        bank = self.bank.Bank(audit=lambda *_: time.sleep(0.001))
        a, b, c = (self.bank.Account(1000) for _ in range(3))
        pairs = [(a, b), (b, a), (b, c), (c, a)]
        jobs = (lambda s=s, t=t: [bank.transfer(s, t, 3) for _ in range(8)] for s, t in pairs)
        self.assertTrue(together(*jobs))
        self.assertEqual((a.balance, b.balance, c.balance), (1024, 976, 1000))

    def test_never_below_zero(self):
        bank = self.bank.Bank(audit=lambda *_: time.sleep(0.001))
        rich, poor = self.bank.Account(0), self.bank.Account(10)
        moved = []
        job = lambda: moved.append(bank.transfer(poor, rich, 4))  # noqa: E731
        self.assertTrue(together(*[job] * 5))
        self.assertEqual((poor.balance, rich.balance), (2, 8))
        self.assertEqual(sorted(moved), [False, False, False, True, True])

    def test_other_pairs_do_not_wait(self):
        inside, go_on = threading.Event(), threading.Event()

        def audit(source, target, amount):
            if amount == 7:
                inside.set()
                go_on.wait(5)

        bank = self.bank.Bank(audit=audit)
        a, b, c, d = (self.bank.Account(50) for _ in range(4))
        slow = threading.Thread(target=bank.transfer, args=(a, b, 7), daemon=True)
        slow.start()
        self.assertTrue(inside.wait(5))
        quick = together(lambda: bank.transfer(c, d, 1)) if not go_on.is_set() else False
        self.assertTrue(slow.is_alive())
        self.assertTrue(quick)
        self.assertEqual(d.balance, 51)
        go_on.set()
        slow.join(5)
        self.assertEqual(b.balance, 57)

    def test_what_makes_no_sense(self):
        bank, a, b = self.bank.Bank(), self.bank.Account(5), self.bank.Account(5)
        for source, target, amount in ((a, a, 1), (a, b, 0), (a, b, -1)):
            with self.assertRaises(ValueError):
                bank.transfer(source, target, amount)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
