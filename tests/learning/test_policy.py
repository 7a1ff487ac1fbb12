"""The tiny policy: what it samples with is what it trains against, however rows are packed."""

from array import array

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rollout.learning.grpo import Grpo  # noqa: E402  only with torch
from rollout.learning.policy import TinyPolicy, logprobs_of, loss_of  # noqa: E402
from rollout.learning.words import END, SAID, prompt_of  # noqa: E402
from rollout.training.batches import Sample, packed, padded  # noqa: E402
from rollout.types import Sequence as Tokens  # noqa: E402
from rollout.types import Span  # noqa: E402


def awake(seed: int = 0) -> TinyPolicy:
    """One that has opinions: the head of a new one is all zeros."""
    policy = TinyPolicy(seed)
    torch.nn.init.normal_(policy.head.weight, std=0.5)
    return policy


def sampled(policy: TinyPolicy, count: int = 12) -> list[Sample]:
    prompts = [
        prompt_of([{"role": "user", "content": text}])
        for text in ("read a.txt", "count the lines of b.txt : write the number to out")
    ] * (count // 2)
    said = policy.sample(prompts, torch.Generator().manual_seed(5), most=3)
    samples = []
    for number, (prompt, (ids, logprobs)) in enumerate(zip(prompts, said, strict=True)):
        start, end = len(prompt), len(prompt) + len(ids)
        tokens = Tokens(
            role="main",
            token_ids=array("i", [*prompt, *ids]),
            loss_mask=bytes(start) + b"\1" * len(ids),
            logprobs=array("f", [0.0] * start + logprobs),
            spans=(Span(start=start, end=end, kind="sampled", step=0, policy_version=1),),
            finish_reason="stop",
        )
        samples.append(
            Sample(
                tokens=tokens,
                trajectory_id=f"t{number}",
                group_id="g",
                reward=0.0,
                advantage=float(number % 3 - 1),
            )
        )
    return samples


def test_a_new_policy_says_every_word_of_the_shell_alike_and_no_other() -> None:
    policy = TinyPolicy(3)
    assert policy.size < 1_000_000
    said = policy.sample([[4, 5]] * 400, torch.Generator().manual_seed(1), most=1)
    assert {ids[0] for ids, _ in said} == {END, *SAID}
    assert {round(logprobs[0], 4) for _, logprobs in said} == {
        round(float(-np.log(len(SAID) + 1)), 4)
    }


@pytest.mark.parametrize("batched", [padded, lambda samples: packed(samples, length=96)])
def test_training_computes_the_log_probabilities_that_were_sampled_with(batched: object) -> None:
    policy = awake()
    batch = batched(sampled(policy))  # type: ignore[operator]
    now = logprobs_of(policy, batch).detach().numpy()
    mask = batch.loss_mask[:, 1:].astype(bool)
    assert mask.sum() > 20
    np.testing.assert_allclose(now[mask], batch.logprobs[:, 1:][mask], rtol=1e-4, atol=1e-5)


def test_packed_and_padded_give_the_same_loss_and_gradients() -> None:
    policy = awake()
    samples = sampled(policy)
    found = []
    for batch in (padded(samples), packed(samples, length=96)):
        policy.zero_grad()
        loss = loss_of(policy, batch, entropy=0.05)
        loss.backward()
        found.append((loss.item(), policy.head.weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-6)


def test_what_was_good_becomes_likelier_and_a_large_ratio_is_clipped() -> None:
    policy = awake()
    samples = sampled(policy)
    batch = padded(samples)
    trainer = Grpo(policy, learning_rate=1e-2, epochs=4, entropy=0.0)
    before = logprobs_of(policy, batch).detach().numpy()
    for _ in range(5):
        trainer.optimiser.zero_grad()
        loss_of(policy, batch).backward()
        trainer.optimiser.step()
    after = logprobs_of(policy, batch).detach().numpy()
    gained = (after - before) * batch.loss_mask[:, 1:]
    assert (gained * batch.advantages[:, 1:]).sum() > 0
    policy = awake()
    far = padded(sampled(policy))
    far.logprobs[:] -= 5.0 * far.loss_mask  # a ratio of e^5: nothing more to gain
    far.advantages[:] = far.loss_mask
    policy.zero_grad()
    loss_of(policy, far).backward()
    assert policy.head.weight.grad.abs().max() == 0.0


def test_nothing_to_train_on_changes_nothing() -> None:
    trainer = Grpo(TinyPolicy(0))
    before = [weight.clone() for weight in trainer.policy.parameters()]
    assert trainer.step([]) == 0.0
    assert all(map(torch.equal, before, trainer.policy.parameters()))
