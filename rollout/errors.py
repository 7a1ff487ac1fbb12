"""The error model: one type for each boundary that can be crossed.

    RolloutError
    ├── ConfigError      the run as asked for cannot be made; nothing was started (exit code 2)
    ├── BuildError       a blueprint could not be made into an image
    ├── SandboxError     a sandbox, its init or its engine failed or broke the protocol
    │   ├── SandboxLost  the sandbox is gone: killed, unreachable or past the host's own deadline
    │   │   └── OutOfMemory  what ran in it took all of its memory limit and ended it
    │   └── TreeRefused  files out of a sandbox broke a rule (absolute name, `..`, device, bomb)
    ├── AgentError       the agent itself failed; its end state is still scored
    ├── ModelError       the model endpoint failed, after retries
    ├── ScoreError       no trustworthy verdict: none written, not finite, crashed or timed out
    │   └── JudgeError   the model that should have judged gave no verdict
    └── StoreError       the dataset's store refused, or could not be reached
        └── Fenced       a newer epoch owns the run; whoever sees this must stop writing

1. Vocabulary: the type says *which boundary* failed, the message says what, which id, what was
   seen and what to change.
2. Classification: `boundary(ErrorType, "doing what")` turns whatever escapes a block into that
   type; an error that is already typed passes through unchanged.
3. Capture: only `rollout/episode.py` turns an error into an outcome on a trajectory.
4. Transport: every error survives pickling, since it crosses processes (tested). To keep that
   true, an exception takes exactly one positional argument, its message.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class RolloutError(Exception):
    """Anything this package raises on purpose."""


class ConfigError(RolloutError):
    """The run as asked for cannot be made. Raised before any sandbox starts."""


class BuildError(RolloutError):
    """A blueprint could not be made into an image."""


class SandboxError(RolloutError):
    """A sandbox, its init or its engine failed."""


class SandboxLost(SandboxError):
    """The sandbox is gone or no longer answers; nothing about its state can be known."""


class OutOfMemory(SandboxLost):
    """What ran in the sandbox went past its own memory limit, and the whole of it was ended.

    Its files are still there: `Sandbox.end_as_image` keeps them."""


class TreeRefused(SandboxError):
    """Files that came out of a sandbox broke a rule and were not taken."""


class AgentError(RolloutError):
    """The agent failed by itself: it crashed, or could not do what it was made to do."""


class ModelError(RolloutError):
    """The model endpoint failed, after retries."""


class ScoreError(RolloutError):
    """A scorer gave no verdict that can be trusted."""


class JudgeError(ScoreError):
    """The model that was to judge gave no verdict, or could not be asked."""


class StoreError(RolloutError):
    """The dataset's store refused or could not be reached."""


class Fenced(StoreError):
    """A newer epoch owns this run; the writer that sees this must stop."""


@asynccontextmanager
async def boundary(error: type[RolloutError], doing: str) -> AsyncIterator[None]:
    """Turn whatever escapes the block into `error`; typed errors and cancellation pass through."""
    try:
        yield
    except RolloutError:
        raise
    except Exception as exc:
        raise error(f"{doing}: {type(exc).__name__}: {exc}") from exc
