"""One step of group-relative policy optimisation, from groups of rollouts to new weights."""

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from rollout.learning.policy import TinyPolicy, loss_of
from rollout.training.batches import Batch, packed, samples_of
from rollout.types import Group

ROW_TOKENS = 256
"""Sequences are packed behind each other into rows of so many."""


class Grpo:
    """Holds the policy that learns, and its optimiser."""

    def __init__(
        self,
        policy: TinyPolicy,
        *,
        learning_rate: float = 3e-3,
        epochs: int = 2,
        clip: float = 0.2,
        entropy: float = 0.06,
        estimator: str = "grpo",
    ) -> None:
        """
        epochs: passes over the rollouts of a step, whose ratios `clip` keeps near 1.
        entropy: weight of the bonus for being undecided; without it a kind of task that was never
            solved by chance is given up before it is.
        """
        self.policy = policy
        self._epochs, self._clip, self._entropy = epochs, clip, entropy
        self._estimator = estimator
        self.optimiser = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)

    def step(self, groups: Sequence[Group]) -> float:
        """Learn from these; the loss of the last pass. Without a trainable member all stays."""
        batch = self.batch(groups)
        loss = torch.zeros(())
        for _ in range(self._epochs if batch.input_ids.size else 0):
            self.optimiser.zero_grad()
            loss = loss_of(self.policy, batch, clip=self._clip, entropy=self._entropy)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
            self.optimiser.step()
        return float(loss.detach())

    def batch(self, groups: Sequence[Group]) -> Batch:
        """Flat groups too: they have no advantage, yet the bonus keeps them undecided."""
        return packed(samples_of(groups, estimator=self._estimator), length=ROW_TOKENS)


def shuffled(groups: Sequence[Group], rng: random.Random) -> list[Group]:
    """The same groups, their members' rewards dealt out anew: what must not be learned from."""
    return [_shuffled(group, rng) for group in groups]


def _shuffled(group: Group, rng: random.Random) -> Group:
    rewards = [member.reward for member in group.trainable]
    rng.shuffle(rewards)
    dealt = iter(rewards)
    members = (
        replace(member, reward=next(dealt)) if member.trainable else member
        for member in group.trajectories
    )
    return replace(group, trajectories=tuple(members))
