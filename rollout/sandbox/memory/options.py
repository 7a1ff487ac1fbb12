"""How the programs read their options and input."""

from rollout.sandbox.memory.process import Process, to_text


def flags_and_names(argv: list[str]) -> tuple[set[str], list[str]]:
    """Single letters and long options, apart from the operands; `--` ends the options."""
    flags, names = set[str](), list[str]()
    for index, word in enumerate(argv[1:], start=1):
        if word == "--":
            names.extend(argv[index + 1 :])
            break
        if word.startswith("--"):
            flags.add(word[2:])
        elif word.startswith("-") and len(word) > 1:
            flags.update(word[1:])
        else:
            names.append(word)
    return flags, names


class Usage(OSError):
    """A program was called in a way it does not know."""

    def __init__(self, text: str) -> None:
        super().__init__(22, text)


def values_and_rest(argv: list[str], letters: str) -> tuple[dict[str, str], list[str]]:
    """Options that take a value (`-n5`, `-n 5`) by letter, and the other words."""
    values: dict[str, str] = {}
    rest, words = [argv[0]], iter(argv[1:])
    for word in words:
        if len(word) > 1 and word[0] == "-" and word[1] in letters:
            values[word[1]] = word[2:] or next(words, "")
        else:
            rest.append(word)
    return values, rest


async def read_lines(process: Process, names: list[str]) -> list[str]:
    """The lines of all files, without their newlines."""
    text = "".join([to_text(await process.read_path(name)) for name in names or ["-"]])
    return split_lines(text)


def split_lines(text: str) -> list[str]:
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines
