"""Text of a POSIX shell script, with a few habits of bash, to the tree in `syntax`."""

import re

from rollout.sandbox.memory.syntax import (
    AndOr,
    Arithmetic,
    ArithmeticCommand,
    Case,
    Command,
    Conditional,
    For,
    Function,
    Group,
    If,
    Literal,
    Loop,
    Parameter,
    Part,
    Pipeline,
    Redirect,
    Sequence,
    Simple,
    Substitution,
    Word,
)

CLOSERS = frozenset({"then", "elif", "else", "fi", "do", "done", "esac", "}"})
METACHARACTERS = frozenset(" \t\n;&|<>()")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_BARE = re.compile(r"(?:[^\s;&|<>()'\"\\$`]+)(?=[\s;&|<>()]|$)")
_BLANKS = re.compile(r"(?:[ \t]|\\\n)*(?:(?<![^\s;&|()])#[^\n]*)?")
_FUNCTION = re.compile(
    r"(?:function[ \t]+)?([A-Za-z_][\w-]*)[ \t]*\([ \t]*\)|function[ \t]+([\w-]+)"
)
_REDIRECT = re.compile(r"(?:(\d*)(<<-|<<<|<<|>>|>\||>&|<&|<>|>|<))|(&>>|&>)")
_OPERATION = re.compile(r":?[-=+?]|%%?|##?|//?")
_SPECIAL = "@*#?$!-0123456789"


class ShellSyntaxError(Exception):
    """The script cannot be parsed."""


def parse(script: str) -> Sequence:
    return Parser(script).program()


class Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._heredocs: list[tuple[Redirect, bool, bool]] = []
        """Redirect, whether its text is literal, whether leading tabs go."""

    def program(self) -> Sequence:
        body = self._sequence()
        if self._at < len(self._text):
            raise self._unexpected()
        return body

    # ------------------------------------------------------------ lists and pipelines

    def _sequence(self) -> Sequence:
        items: list[tuple[AndOr, bool]] = []
        while True:
            self._newlines()
            if self._at >= len(self._text) or self._peek(")", ";;") or self._bare() in CLOSERS:
                return Sequence(tuple(items))
            chain = self._and_or()
            self._blanks()
            background = self._peek("&") and not self._peek("&&", "&>")
            items.append((chain, background))
            if background or (self._peek(";") and not self._peek(";;")):
                self._at += 1
            elif not self._peek("\n"):
                return Sequence(tuple(items))

    def _and_or(self) -> AndOr:
        first, rest = self._pipeline(), list[tuple[str, Pipeline]]()
        while True:
            self._blanks()
            if not self._peek("&&", "||"):
                return AndOr(first, tuple(rest))
            op = self._take(2)
            self._newlines()
            rest.append((op, self._pipeline()))

    def _pipeline(self) -> Pipeline:
        negate = False
        self._blanks()
        while self._bare() == "!":
            self._at += 1
            negate = not negate
            self._blanks()
        commands = [self._command()]
        while True:
            self._blanks()
            if not self._peek("|") or self._peek("||"):
                return Pipeline(tuple(commands), negate)
            self._at += 1
            if self._peek("&"):
                raise self._unexpected()
            self._newlines()
            commands.append(self._command())

    # ------------------------------------------------------------ commands

    def _command(self) -> Command:
        self._blanks()
        if self._peek("(("):
            return self._arithmetic_command()
        if self._peek("("):
            self._at += 1
            body = self._sequence()
            self._expect(")")
            return Group(body, True, self._redirects())
        function = _FUNCTION.match(self._text, self._at)
        if function:
            self._at = function.end()
            self._newlines()
            return Function(function[1] or function[2], self._command())
        match self._bare():
            case "{":
                self._at += 1
                body = self._sequence()
                self._keyword("}")
                return Group(body, False, self._redirects())
            case "if":
                return self._if()
            case "while" | "until" as word:
                self._at += len(word)
                test, body = self._sequence(), self._do()
                return Loop(test, body, word == "until", self._redirects())
            case "for":
                return self._for()
            case "case":
                return self._case()
            case "[[":
                return self._conditional()
        return self._simple()

    def _if(self) -> If:
        self._keyword("if")
        branches = []
        while True:
            test = self._sequence()
            self._keyword("then")
            branches.append((test, self._sequence()))
            if self._bare() != "elif":
                break
            self._keyword("elif")
        otherwise = None
        if self._bare() == "else":
            self._keyword("else")
            otherwise = self._sequence()
        self._keyword("fi")
        return If(tuple(branches), otherwise, self._redirects())

    def _do(self) -> Sequence:
        self._newlines()
        self._keyword("do")
        body = self._sequence()
        self._keyword("done")
        return body

    def _for(self) -> For:
        self._keyword("for")
        self._blanks()
        name = NAME.match(self._text, self._at)
        if not name:
            raise self._unexpected()
        self._at = name.end()
        self._newlines()
        words: tuple[Word, ...] | None = None
        if self._bare() == "in":
            self._keyword("in")
            words = self._words()
        self._blanks()
        if self._peek(";"):
            self._at += 1
        return For(name[0], words, self._do(), self._redirects())

    def _words(self) -> tuple[Word, ...]:
        words: list[Word] = []
        while True:
            self._blanks()
            if self._at_metacharacter():
                return tuple(words)
            words.append(self._word())

    def _case(self) -> Case:
        self._keyword("case")
        self._blanks()
        subject = self._word()
        self._newlines()
        self._keyword("in")
        branches = []
        while True:
            self._newlines()
            if self._bare() == "esac":
                break
            if self._peek("("):
                self._at += 1
            patterns = list[Word]()
            while True:
                self._blanks()
                patterns.append(self._word())
                self._blanks()
                if not self._peek("|"):
                    break
                self._at += 1
            self._expect(")")
            branches.append((tuple(patterns), self._sequence()))
            if self._peek(";;"):
                self._at += 2
        self._keyword("esac")
        return Case(subject, tuple(branches), self._redirects())

    def _conditional(self) -> Conditional:
        self._keyword("[[")
        words = list[Word]()
        while True:
            self._newlines()
            if self._bare() == "]]":
                self._at += 2
                return Conditional(tuple(words), self._redirects())
            operator = re.compile(r"&&|\|\||[()<>]").match(self._text, self._at)
            if operator:
                words.append((Literal(operator[0]),))
                self._at = operator.end()
            elif self._at >= len(self._text) or self._at_metacharacter():
                raise self._unexpected()
            else:
                words.append(self._word())

    def _arithmetic_command(self) -> ArithmeticCommand:
        self._at += 2
        word = tuple(self._parts("))", quoted=True))
        self._expect("))")
        return ArithmeticCommand(word, self._redirects())

    def _simple(self) -> Simple:
        assigns = list[tuple[str, Word]]()
        words = list[Word]()
        redirects = list[Redirect]()
        while True:
            self._blanks()
            redirect = self._redirect()
            if redirect:
                redirects.append(redirect)
                continue
            if self._at_metacharacter():
                break
            assignment = _ASSIGNMENT.match(self._text, self._at) if not words else None
            if assignment:
                self._at = assignment.end()
                assigns.append((assignment[0][:-1], self._word()))
            else:
                words.append(self._word())
        if not (assigns or words or redirects):
            raise self._unexpected()
        return Simple(tuple(assigns), tuple(words), tuple(redirects))

    # ------------------------------------------------------------ redirections

    def _redirects(self) -> tuple[Redirect, ...]:
        found: list[Redirect] = []
        while True:
            self._blanks()
            redirect = self._redirect()
            if redirect is None:
                return tuple(found)
            found.append(redirect)

    def _redirect(self) -> Redirect | None:
        match = _REDIRECT.match(self._text, self._at)
        if not match:
            return None
        self._at = match.end()
        op = match[2] or match[3]
        fd = int(match[1]) if match[1] else int(not op.startswith("<"))
        self._blanks()
        if self._at_metacharacter():
            raise self._unexpected()
        word = self._word()
        if op not in ("<<", "<<-"):
            return Redirect(op, fd, word)
        redirect = Redirect("<<", fd, (), "".join(_literal_text(part) for part in word))
        literal = any(isinstance(part, Literal) and part.quoted for part in word)
        self._heredocs.append((redirect, literal, op == "<<-"))
        return redirect

    def _read_heredocs(self) -> None:
        for redirect, literal, strip_tabs in self._heredocs:
            lines = []
            while self._at < len(self._text):
                line, newline, _ = self._text[self._at :].partition("\n")
                self._at += len(line) + len(newline)
                line = line.lstrip("\t") if strip_tabs else line
                if line == redirect.delimiter:
                    break
                lines.append(line + newline)
            body = "".join(lines)
            redirect.word = (Literal(body, True),) if literal else Parser(body)._document()
        self._heredocs.clear()

    def _document(self) -> Word:
        return tuple(self._parts("", quoted=True))

    # ------------------------------------------------------------ words

    def _word(self) -> Word:
        parts: list[Part] = []
        while self._at < len(self._text) and self._text[self._at] not in METACHARACTERS:
            self._part(parts, quoted=False, stop="")
        return tuple(parts)

    def _parts(self, stop: str, *, quoted: bool) -> list[Part]:
        """Parts up to the unquoted text `stop`, which is left unread; empty: up to the end."""
        parts: list[Part] = []
        depth = 0
        while self._at < len(self._text):
            if stop and depth == 0 and self._peek(stop):
                return parts
            if stop == "))":
                depth += {"(": 1, ")": -1}.get(self._text[self._at], 0)
            self._part(parts, quoted=quoted, stop=stop)
        if stop:
            raise ShellSyntaxError(f"Unterminated quoted string or expansion, no {stop}")
        return parts

    def _part(self, parts: list[Part], *, quoted: bool, stop: str) -> None:
        char = self._text[self._at]
        if char == "\\":
            self._escape(parts, quoted, stop)
        elif char == "'" and not quoted:
            end = self._text.find("'", self._at + 1)
            if end < 0:
                raise ShellSyntaxError("Unterminated quoted string")
            parts.append(Literal(self._text[self._at + 1 : end], True))
            self._at = end + 1
        elif char == '"' and (not quoted or stop == "}"):
            self._at += 1
            parts.append(Literal("", True))
            parts.extend(self._parts('"', quoted=True))
            self._at += 1
        elif char == "$":
            parts.append(self._dollar(quoted))
        elif char == "`":
            parts.append(self._backticks(quoted))
        else:
            end = self._at + 1
            while end < len(self._text) and self._text[end] not in " \t\n;&|<>()'\"\\$`}":
                end += 1
            parts.append(Literal(self._text[self._at : end], quoted))
            self._at = end

    def _escape(self, parts: list[Part], quoted: bool, stop: str) -> None:
        following = self._text[self._at + 1 : self._at + 2]
        self._at += 2
        if following == "\n":
            return
        special = '$`\\"' if stop == '"' else "$`\\}" if stop == "}" else "$`\\"
        if quoted and following not in special:
            following = "\\" + following
        parts.append(Literal(following or "\\", True))

    def _dollar(self, quoted: bool) -> Part:
        if self._peek("$(("):
            at = self._at
            try:
                self._at += 3
                word = tuple(self._parts("))", quoted=True))
                self._expect("))")
                return Arithmetic(word, quoted)
            except ShellSyntaxError:
                self._at = at
        if self._peek("$("):
            self._at += 2
            body = self._sequence()
            self._expect(")")
            return Substitution(body, quoted)
        if self._peek("${"):
            return self._braced(quoted)
        self._at += 1
        name = NAME.match(self._text, self._at)
        if name:
            self._at = name.end()
            return Parameter(name[0], quoted=quoted)
        if self._at < len(self._text) and self._text[self._at] in _SPECIAL:
            return Parameter(self._take(1), quoted=quoted)
        return Literal("$", quoted)

    def _braced(self, quoted: bool) -> Parameter:
        self._at += 2
        length = self._peek("#") and not self._peek("#}")
        self._at += int(length)
        name = re.compile(r"\d+|[A-Za-z_]\w*|[@*#?$!-]").match(self._text, self._at)
        if not name:
            raise ShellSyntaxError("Bad substitution")
        self._at = name.end()
        operation = _OPERATION.match(self._text, self._at)
        op, word = "", list[Part]()
        if length:
            op = "#len"
        elif operation:
            op = operation[0]
            self._at = operation.end()
            word = self._parts("}", quoted=quoted and op[-1] in "-=+?")
        self._expect("}")
        return Parameter(name[0], op, tuple(word), quoted)

    def _backticks(self, quoted: bool) -> Substitution:
        end = self._at + 1
        while end < len(self._text) and self._text[end] != "`":
            end += 2 if self._text[end] == "\\" else 1
        if end >= len(self._text):
            raise ShellSyntaxError("EOF in backquote substitution")
        inner = re.sub(r"\\([$`\\])", r"\1", self._text[self._at + 1 : end])
        self._at = end + 1
        return Substitution(parse(inner), quoted)

    # ------------------------------------------------------------ scanning

    def _blanks(self) -> None:
        match = _BLANKS.match(self._text, self._at)
        if match:
            self._at = match.end()

    def _newlines(self) -> None:
        self._blanks()
        while self._peek("\n"):
            self._at += 1
            self._read_heredocs()
            self._blanks()

    def _peek(self, *texts: str) -> bool:
        return self._text.startswith(texts, self._at)

    def _take(self, count: int) -> str:
        self._at += count
        return self._text[self._at - count : self._at]

    def _bare(self) -> str:
        """The unquoted plain word that comes next, if it is one."""
        match = _BARE.match(self._text, self._at)
        return match[0] if match else ""

    def _at_metacharacter(self) -> bool:
        return self._at >= len(self._text) or self._text[self._at] in METACHARACTERS

    def _expect(self, text: str) -> None:
        self._blanks()
        if not self._peek(text):
            raise self._unexpected()
        self._at += len(text)

    def _keyword(self, word: str) -> None:
        if self._bare() != word:
            raise self._unexpected(word)
        self._at += len(word)

    def _unexpected(self, wanted: str = "") -> ShellSyntaxError:
        if self._at >= len(self._text):
            seen = "end of file unexpected"
        elif self._peek("\n"):
            seen = "newline unexpected"
        else:
            seen = f'"{self._bare() or self._text[self._at]}" unexpected'
        return ShellSyntaxError(seen + (f' (expecting "{wanted}")' if wanted else ""))


def _literal_text(part: Part) -> str:
    return part.text if isinstance(part, Literal) else ""
