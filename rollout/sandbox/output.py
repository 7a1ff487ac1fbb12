"""What a process printed, as text for people."""

from rollout.sandbox.base import ExecResult


def text_of(result: ExecResult) -> str:
    """Standard output, then standard error; undecodable bytes are marked, cuts are told."""
    out, err = (data.decode(errors="replace") for data in (result.stdout, result.stderr))
    between = "\n" if out and err and not out.endswith("\n") else ""
    end = "\n… the rest went past the output limit" if result.truncated else ""
    return f"{out}{between}{err}{end}"


def head_and_tail(text: str, limit_chars: int) -> str:
    """At most about `limit_chars`: how it began and how it ended, saying what was left out."""
    if len(text) <= limit_chars:
        return text
    half = limit_chars // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
