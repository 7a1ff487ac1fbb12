"""A decoder transformer of some hundred thousand weights, and what it learns by. Needs torch.

It hears every word of the vocabulary and says the words of a shell alone. Sampling and training
go through the same forward pass, so the log probabilities that the server tells are those that
the trainer computes again.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rollout.learning.words import END, PAD, SAID, WORDS
from rollout.training.batches import Batch

LONGEST = 96
"""Tokens of a conversation at most."""
SILENT = -1e9


class TinyPolicy(nn.Module):
    """Pre-norm decoder; `forward` gives log probabilities of the next token."""

    def __init__(self, seed: int = 0, *, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tokens = nn.Embedding(len(WORDS), width, padding_idx=PAD)
        self.places = nn.Embedding(LONGEST, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(WORDS))
        nn.init.zeros_(self.head.weight)  # every word is as likely as any other at first
        nn.init.zeros_(self.head.bias)
        silent = torch.full((len(WORDS),), SILENT)
        silent[[END, *SAID]] = 0.0
        self.register_buffer("silent", silent)

    @property
    def size(self) -> int:
        """Weights."""
        return sum(weight.numel() for weight in self.parameters())

    def forward(self, ids: Tensor, places: Tensor, segments: Tensor) -> Tensor:
        """Log probabilities of what follows each token: (rows, length, words).

        ids, places, segments: (rows, length); tokens see those before them in their own segment.
        """
        length = ids.shape[1]
        before = torch.ones(length, length, dtype=torch.bool).tril()
        seen = before & (segments[:, :, None] == segments[:, None, :])
        x = self.tokens(ids) + self.places(places)
        for block in self.blocks:
            x = block(x, seen[:, None])
        told: Tensor = functional.log_softmax(self.head(self.norm(x)) + self.silent, dim=-1)
        return told

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        generator: torch.Generator,
        *,
        most: int,
        temperature: float = 1.0,
    ) -> list[tuple[list[int], list[float]]]:
        """For each prompt up to `most` tokens, the end included, and their log probabilities; none
        may be longer than LONGEST with them."""
        rows = [list(prompt) for prompt in prompts]
        said: list[tuple[list[int], list[float]]] = [([], []) for _ in rows]
        going = list(range(len(rows)))
        for _ in range(most):
            logprobs = self._next([rows[row] for row in going], temperature)
            chosen = torch.multinomial(logprobs.exp(), 1, generator=generator)
            told = logprobs.gather(1, chosen)[:, 0].tolist()
            for row, token, logprob in zip(list(going), chosen[:, 0].tolist(), told, strict=True):
                rows[row].append(token)
                said[row][0].append(token)
                said[row][1].append(logprob)
                if token == END:
                    going.remove(row)
            if not going:
                break
        return said

    def _next(self, rows: Sequence[Sequence[int]], temperature: float) -> Tensor:
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), PAD)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
        segments = (ids != PAD).long()
        places = torch.arange(longest).expand_as(ids)
        last = torch.tensor([len(row) - 1 for row in rows])
        logprobs: Tensor = self(ids, places, segments)[torch.arange(len(rows)), last]
        told: Tensor = functional.log_softmax(logprobs / temperature, dim=-1)
        return told


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attend, self.think = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mind = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(self.attend(x)).view(rows, length, 3, self.heads, -1).unbind(2)
        heads = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=seen
        )
        x = x + self.out(heads.transpose(1, 2).reshape(rows, length, width))
        thought: Tensor = self.mind(self.think(x))
        return x + thought


def logprobs_of(policy: TinyPolicy, batch: Batch) -> Tensor:
    """Of each token but the first of a row, given those before it: (rows, length - 1).

    What begins a segment has nothing before it; its mask is 0.
    """
    return _forward(policy, batch)[1]


def loss_of(policy: TinyPolicy, batch: Batch, *, clip: float = 0.2, entropy: float = 0.0) -> Tensor:
    """Clipped policy gradient (PPO's, with the advantages of the batch), a mean over its tokens.

    The ratio is against the log probabilities that the tokens were sampled with, whatever weights
    those were of. `entropy` is the weight of a bonus for being undecided.
    """
    words, now = _forward(policy, batch)
    mask = _tensor(batch.loss_mask)[:, 1:].float()
    advantages = torch.from_numpy(batch.advantages)[:, 1:]
    ratio = torch.exp((now - torch.from_numpy(batch.logprobs)[:, 1:]) * mask)
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    undecided = -(words.exp() * words).sum(-1)
    loss: Tensor = -((gain + entropy * undecided) * mask).sum() / mask.sum().clamp(min=1)
    return loss


def _forward(policy: TinyPolicy, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log probabilities of every word after each token but the last, and of the one that came."""
    ids = _tensor(batch.input_ids)
    words = policy(ids, _tensor(batch.positions), _tensor(batch.segments))[:, :-1]
    return words, words.gather(2, ids[:, 1:, None])[:, :, 0]


def _tensor(array: "np.ndarray[tuple[int, int], np.dtype[np.generic]]") -> Tensor:
    return torch.from_numpy(array.astype(np.int64))
