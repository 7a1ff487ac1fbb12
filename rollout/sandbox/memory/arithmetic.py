"""Integer expressions of `$((…))`: C's operators on 64-bit numbers and shell variables."""

import re
from collections.abc import Callable

_TOKEN = re.compile(
    r"\s*(0[xX][0-9a-fA-F]+|\d+|[A-Za-z_]\w*"
    r"|<<=|>>=|\+\+|--|\*\*|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|[-+*/%<>=!~&|^?:(),])"
)
_LEVELS: tuple[tuple[str, ...], ...] = (
    ("||",),
    ("&&",),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!="),
    ("<", "<=", ">", ">="),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
)
_ASSIGNMENTS = frozenset({"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="})


class ArithmeticFault(Exception):
    """The expression has no value."""


def evaluate(text: str, get: Callable[[str], str], put: Callable[[str, str], None]) -> int:
    """The value of `text`; variables are read by `get` and assigned by `put`."""
    return _Evaluation(_tokens(text), get, put).whole()


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if not match:
            raise ArithmeticFault(f'arithmetic expression: syntax error: "{text}"')
        tokens.append(match[1])
        at = match.end()
    return tokens


class _Evaluation:
    def __init__(
        self, tokens: list[str], get: Callable[[str], str], put: Callable[[str, str], None]
    ) -> None:
        self._tokens = tokens
        self._at = 0
        self._get = get
        self._put = put

    def whole(self) -> int:
        if not self._tokens:
            return 0
        value = self._comma()
        if self._at < len(self._tokens):
            raise ArithmeticFault(f"arithmetic expression: unexpected {self._tokens[self._at]}")
        return value

    def _comma(self) -> int:
        value = self._assignment()
        while self._next(","):
            value = self._assignment()
        return value

    def _assignment(self) -> int:
        name, op = self._peek(), self._peek(1)
        if not _is_name(name) or op not in _ASSIGNMENTS:
            return self._ternary()
        self._at += 2
        value = self._assignment()
        if op != "=":
            value = _apply(op[:-1], self._number(name), value)
        self._put(name, str(value))
        return value

    def _ternary(self) -> int:
        value = self._level(0)
        if not self._next("?"):
            return value
        yes = self._assignment()
        if not self._next(":"):
            raise ArithmeticFault("arithmetic expression: expecting ':'")
        no = self._assignment()
        return yes if value else no

    def _level(self, level: int) -> int:
        if level == len(_LEVELS):
            return self._power()
        left = self._level(level + 1)
        while self._peek() in _LEVELS[level]:
            op = self._take()
            left = _apply(op, left, self._level(level + 1))
        return left

    def _power(self) -> int:
        base = self._unary()
        return _apply("**", base, self._power()) if self._next("**") else base

    def _unary(self) -> int:
        op = self._take()
        match op:
            case "-":
                return -self._unary()
            case "+":
                return self._unary()
            case "!":
                return int(not self._unary())
            case "~":
                return ~self._unary()
            case "(":
                value = self._comma()
                if not self._next(")"):
                    raise ArithmeticFault("arithmetic expression: expecting ')'")
                return value
            case "++" | "--":
                return self._step(self._take(), op)
        if op[:1].isdigit():
            return _number(op)
        if not _is_name(op):
            raise ArithmeticFault(f"arithmetic expression: expecting primary, not {op!r}")
        if self._peek() in ("++", "--"):
            before = self._number(op)
            self._step(op, self._take())
            return before
        return self._number(op)

    def _step(self, name: str, op: str) -> int:
        value = self._number(name) + (1 if op == "++" else -1)
        self._put(name, str(value))
        return value

    def _number(self, name: str) -> int:
        text = self._get(name).strip()
        return _number(text) if text else 0

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _next(self, token: str) -> bool:
        found = self._peek() == token
        self._at += int(found)
        return found


def _is_name(token: str) -> bool:
    return token[:1].isalpha() or token[:1] == "_"


def _number(text: str) -> int:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    octal = digits.startswith("0") and digits.isdigit() and len(digits) > 1
    try:
        return sign * int(digits, 8 if octal else 0)
    except ValueError:
        raise ArithmeticFault(f"Illegal number: {text}") from None


def _apply(op: str, a: int, b: int) -> int:
    if op in ("/", "%") and b == 0:
        raise ArithmeticFault("division by zero")
    if op in ("**", "<<", ">>") and not 0 <= b < 64:
        raise ArithmeticFault(f"exponent or shift out of range: {b}")
    quotient = 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    operations: dict[str, Callable[[], int]] = {
        "+": lambda: a + b,
        "-": lambda: a - b,
        "*": lambda: a * b,
        "/": lambda: quotient,
        "%": lambda: a - b * quotient,
        "**": lambda: a**b,
        "<<": lambda: a << b,
        ">>": lambda: a >> b,
        "&": lambda: a & b,
        "|": lambda: a | b,
        "^": lambda: a ^ b,
        "<": lambda: int(a < b),
        "<=": lambda: int(a <= b),
        ">": lambda: int(a > b),
        ">=": lambda: int(a >= b),
        "==": lambda: int(a == b),
        "!=": lambda: int(a != b),
        "&&": lambda: int(bool(a) and bool(b)),
        "||": lambda: int(bool(a) or bool(b)),
    }
    value = operations[op]()
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
