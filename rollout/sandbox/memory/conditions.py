"""`test`, `[` and `[[`: what the expressions say of files, strings and numbers."""

import re
from collections.abc import Callable

from rollout.sandbox.memory.files import READ, SEARCH, WRITE, File, Folder, Link, Node, Special
from rollout.sandbox.memory.process import Process


class ConditionFault(Exception):
    """The expression cannot be understood; the status is 2."""


def holds(process: Process, words: list[str], *, patterns: bool = False) -> bool:
    """Whether the expression is true. `patterns`: `==` takes a regular expression's source."""
    if not words:
        return False
    expression = _Expression(process, words, patterns)
    value = expression.either()
    expression.finish()
    return value


class _Expression:
    def __init__(self, process: Process, words: list[str], patterns: bool) -> None:
        self._process = process
        self._words = words
        self._patterns = patterns
        self._at = 0

    def finish(self) -> None:
        if self._at < len(self._words):
            raise ConditionFault(f"test: {self._words[self._at]}: unexpected operator")

    def either(self) -> bool:
        value = self._both()
        while self._next("-o", "||"):
            value = self._both() or value
        return value

    def _both(self) -> bool:
        value = self._not()
        while self._next("-a", "&&"):
            value = self._not() and value
        return value

    def _not(self) -> bool:
        if self._left() > 1 and not self._binary_ahead() and self._next("!"):
            return not self._not()
        return self._primary()

    def _primary(self) -> bool:
        if self._left() > 2 and not self._binary_ahead() and self._next("("):
            value = self.either()
            if not self._next(")"):
                raise ConditionFault("test: closing paren expected")
            return value
        if self._binary_ahead():
            left, op, right = self._take(), self._take(), self._take()
            return self._compare(left, op, right)
        if self._left() > 1 and re.fullmatch(r"-[bcdefgGhkLnNOprsStuwxz]", self._peek()):
            return self._unary(self._take(), self._take())
        if self._left() == 0:
            raise ConditionFault("test: argument expected")
        return bool(self._take())

    def _binary_ahead(self) -> bool:
        return self._left() > 2 and (
            self._words[self._at + 1] in _NUMBERS
            or self._words[self._at + 1] in ("=", "==", "!=", "=~", "<", ">", "-nt", "-ot", "-ef")
        )

    def _compare(self, left: str, op: str, right: str) -> bool:
        if op in _NUMBERS:
            return _NUMBERS[op](_integer(left), _integer(right))
        if op == "=~":
            return re.search(right, left) is not None
        if op in ("=", "==", "!="):
            same = bool(re.fullmatch(right, left)) if self._patterns else left == right
            return same == (op != "!=")
        if op in ("<", ">"):
            return left < right if op == "<" else left > right
        a, b = self._node(left), self._node(right)
        if op == "-ef":
            return a is not None and a is b
        newer, older = (a, b) if op == "-nt" else (b, a)
        return newer is not None and (older is None or newer.mtime > older.mtime)

    def _unary(self, op: str, operand: str) -> bool:
        if op in ("-n", "-z"):
            return bool(operand) == (op == "-n")
        if op == "-t":
            return False
        node = self._node(operand, follow=op not in ("-L", "-h"))
        return node is not None and self._is(op, node)

    def _is(self, op: str, node: Node) -> bool:
        match op:
            case "-e":
                return True
            case "-f":
                return isinstance(node, File)
            case "-d":
                return isinstance(node, Folder)
            case "-L" | "-h":
                return isinstance(node, Link)
            case "-p":
                return isinstance(node, Special) and node.kind == "fifo"
            case "-c":
                return isinstance(node, Special) and node.kind != "fifo"
            case "-s":
                return not isinstance(node, File) or bool(node.data)
            case "-r":
                return self._process.may(node, READ)
            case "-w":
                return self._process.may(node, WRITE)
            case "-x":
                runs = isinstance(node, Folder) or bool(node.mode & 0o111)
                return runs and self._process.may(node, SEARCH)
            case "-O":
                return node.uid == self._process.who.uid
        return False

    def _node(self, path: str, *, follow: bool = True) -> Node | None:
        try:
            return self._process.node(path, follow=follow)
        except OSError:
            return None

    def _left(self) -> int:
        return len(self._words) - self._at

    def _peek(self) -> str:
        return self._words[self._at]

    def _take(self) -> str:
        self._at += 1
        return self._words[self._at - 1]

    def _next(self, *words: str) -> bool:
        found = self._left() > 0 and self._peek() in words
        self._at += int(found)
        return found


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConditionFault(f"test: Illegal number: {text}") from None


_NUMBERS: dict[str, Callable[[int, int], bool]] = {
    "-eq": lambda a, b: a == b,
    "-ne": lambda a, b: a != b,
    "-lt": lambda a, b: a < b,
    "-le": lambda a, b: a <= b,
    "-gt": lambda a, b: a > b,
    "-ge": lambda a, b: a >= b,
}
