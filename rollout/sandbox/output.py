"""What a process printed, as text for people."""

from rollout.sandbox.base import ExecResult


def text_of(result: ExecResult) -> str:
    """Standard output, then standard error; undecodable bytes are marked, cuts are told."""
    out, err = (data.decode(errors="replace") for data in (result.stdout, result.stderr))
    between = "\n" if out and err and not out.endswith("\n") else ""
    end = "\n… the rest went past the output limit" if result.truncated else ""
    return f"{out}{between}{err}{end}"
