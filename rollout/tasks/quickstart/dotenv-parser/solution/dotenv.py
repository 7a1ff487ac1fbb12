"""Reading .env files."""

import re

START = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
SKIPPED = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
SINGLE = re.compile(r"'([^']*)'")
DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
PLAIN = re.compile(r"[^\n]*")
ESCAPE = re.compile(r'\\([nt"\\$])|\$\{([A-Za-z_][A-Za-z0-9_]*)\}')
ESCAPES = {"n": "\n", "t": "\t"}


def parse(text):
    """The variables of an .env file, in their order."""
    found, at = {}, 0
    while at < len(text):
        skipped = SKIPPED.match(text, at)
        if skipped:
            at = skipped.end()
            continue
        start = START.match(text, at)
        if not start:
            raise fault(text, at)
        value, at = read_value(text, start.end(), found)
        found[start[1]] = value
    return found


def read_value(text, at, known):
    quote = text[at : at + 1]
    if quote not in ("'", '"'):
        plain = PLAIN.match(text, at)
        value = re.split(r"(?:^|[ \t])#", plain[0])[0].rstrip()
        return fill(value, known, escapes=False), plain.end() + 1
    quoted = (SINGLE if quote == "'" else DOUBLE).match(text, at)
    if not quoted:
        raise fault(text, at)
    rest = SKIPPED.match(text, quoted.end())
    if not rest:
        raise fault(text, quoted.end())
    value = quoted[1] if quote == "'" else fill(quoted[1], known, escapes=True)
    return value, rest.end()


def fill(value, known, escapes):
    def instead(found):
        if found[2] is not None:
            return known.get(found[2], "")
        return ESCAPES.get(found[1], found[1]) if escapes else found[0]

    return ESCAPE.sub(instead, value)


def fault(text, at):
    return ValueError(f"line {text.count(chr(10), 0, at) + 1} is no assignment")
