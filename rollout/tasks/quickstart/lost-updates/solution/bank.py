"""Accounts, and transfers between them from many threads."""

import itertools
import threading

_numbers = itertools.count()


class Account:
    def __init__(self, balance):
        self.balance = balance
        self.number = next(_numbers)
        self.lock = threading.Lock()


class Bank:
    def __init__(self, audit=lambda source, target, amount: None):
        self.audit = audit

    def transfer(self, source, target, amount):
        """Move the amount if there is enough; whether it was moved."""
        if source is target or amount <= 0:
            raise ValueError("a transfer needs two accounts and an amount above zero")
        first, second = sorted((source, target), key=lambda account: account.number)
        with first.lock, second.lock:
            self.audit(source, target, amount)
            if source.balance < amount:
                return False
            source.balance -= amount
            target.balance += amount
            return True
