"""Text of a POSIX shell script, with a few habits of bash, to the tree in `syntax`."""

import re

from rollout.sandbox.memory.syntax import (
    AndOr,
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
    Part,
    Pipeline,
    Redirect,
    Sequence,
    Simple,
    Word,
)
from rollout.sandbox.memory.words import NAME, Words

CLOSERS = frozenset({"then", "elif", "else", "fi", "do", "done", "esac", "}"})
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_FUNCTION = re.compile(
    r"(?:function[ \t]+)?([A-Za-z_][\w-]*)[ \t]*\([ \t]*\)|function[ \t]+([\w-]+)"
)
_TEST_OPERATOR = re.compile(r"&&|\|\||[()<>]")
_REDIRECT = re.compile(r"(?:(\d*)(<<-|<<<|<<|>>|>\||>&|<&|<>|>|<))|(&>>|&>)")


def parse(script: str) -> Sequence:
    return Parser(script).program()


class Parser(Words):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._heredocs: list[tuple[Redirect, bool, bool]] = []
        """Redirect, whether its text is literal, whether leading tabs go."""

    def program(self) -> Sequence:
        body = self._sequence()
        if self._at < len(self._text):
            raise self._unexpected()
        return body

    def _inner(self, text: str) -> Sequence:
        return parse(text)

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
            operator = _TEST_OPERATOR.match(self._text, self._at)
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


def _literal_text(part: Part) -> str:
    return part.text if isinstance(part, Literal) else ""
