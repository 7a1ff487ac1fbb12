"""What a trajectory's messages say of who went on from whom: a tree, and its branches.

Messages stand in the order they came, each once. A step's first message follows the one before it,
unless the step says `after`: so sub-agents that start alike, and conversations that begin anew, are
told apart.
"""

from dataclasses import dataclass

from rollout.types import AgentStep, Message, Trajectory

ROOT = -1


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a trajectory in its place."""

    index: int
    message: Message
    parent: int
    """Index of the message it follows; ROOT: it begins a conversation."""
    step: AgentStep | None
    """The step whose range holds it."""


def said(t: Trajectory) -> list[Said]:
    """Every message, in order."""
    steps: dict[int, AgentStep] = {}
    after: dict[int, int] = {}
    first = 0
    for step in t.steps:
        steps.update(dict.fromkeys(range(step.message_start, step.message_end), step))
        if step.source == "agent":
            # What users and systems said for this call stands before it, and begins its turn.
            if step.after is not None:
                after[first] = step.after
            first = step.message_end
    return [
        Said(index, message, after.get(index, index - 1), steps.get(index))
        for index, message in enumerate(t.messages)
    ]


def branches(t: Trajectory) -> list[list[Said]]:
    """Each conversation from its beginning to an end that nobody went on from."""
    every = said(t)
    parents = {each.parent for each in every}
    found = []
    for leaf in every:
        if leaf.index not in parents:
            path = [leaf]
            while path[-1].parent != ROOT:
                path.append(every[path[-1].parent])
            found.append(path[::-1])
    return found
