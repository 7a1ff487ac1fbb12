"""Accounts, and transfers between them from many threads."""


class Account:
    def __init__(self, balance):
        self.balance = balance


class Bank:
    def __init__(self, audit=lambda source, target, amount: None):
        self.audit = audit

    def transfer(self, source, target, amount):
        """Move the amount if there is enough; whether it was moved."""
        left = source.balance - amount
        arrived = target.balance + amount
        self.audit(source, target, amount)
        source.balance = left
        target.balance = arrived
        return True
