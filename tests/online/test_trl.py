"""TRL's own trainers, two optimiser steps each, on rollouts of real sandboxes.

The model is a few random weights that know bytes; the replies are the scripted engine's, whose
tokens are bytes too. So nothing is learned here, and everything is wired as it is for real.
"""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rollout import open_dataset
from rollout.errors import ConfigError
from rollout.online.trl import TrlRollouts, TrlRolloutWorker, rollout_reward
from rollout.training.adapters.sft import sft_dataset
from tests.online.test_source import config_of
from tests.online.tiny_llama import VOCABULARY, llama, weights_of

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("datasets")
trl = pytest.importorskip("trl")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.native,
    pytest.mark.filterwarnings("default"),  # of libraries that are not ours
]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"<{number}>": number for number in range(VOCABULARY - 3)}
    words |= {"<pad>": VOCABULARY - 3, "<eos>": VOCABULARY - 2, "<unk>": VOCABULARY - 1}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
    )


@pytest.fixture
def config(tmp_path: Path) -> Iterator[list[str]]:
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    yield [*config_of(tmp_path), "executor=local"]
    del os.environ["TRL_EXPERIMENTAL_SILENCE"]


def two_steps(folder: Path) -> dict[str, Any]:
    """What the configs of all its trainers say here."""
    return {
        "output_dir": str(folder / "out"),
        "max_steps": 2,
        "learning_rate": 1e-2,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "logging_steps": 1,
    }


def test_grpo_trainer_takes_two_steps(config: list[str], tokenizer: Any, tmp_path: Path) -> None:
    rollouts = TrlRollouts(config)
    try:
        policy = llama()
        before = weights_of(policy)
        arguments = trl.GRPOConfig(
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=64,
            **two_steps(tmp_path),
        )
        trainer = trl.GRPOTrainer(
            model=policy,
            reward_funcs=[rollout_reward],
            args=arguments,
            train_dataset=rollouts.dataset().select([0, 0]),  # the task that half of them solve
            processing_class=tokenizer,
            rollout_func=rollouts,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train()
        history = trainer.state.log_history
        uri = rollouts._background.source.uri
    finally:
        rollouts.close()
    assert trainer.state.global_step == 2
    assert any(entry.get("reward", 0.0) > 0 for entry in history)
    assert any(not torch.equal(a, b) for a, b in zip(before, weights_of(policy), strict=True))
    with open_dataset(uri) as dataset:
        groups = list(dataset.groups())
    assert [len(group.trajectories) for group in groups] == [4, 4]
    assert [group.oldest_version for group in groups] == [0, 1]


def test_the_rollout_worker_keeps_trls_contract(config: list[str]) -> None:
    from trl.experimental.async_grpo.async_grpo_trainer import RolloutWorkerProtocol

    worker = TrlRolloutWorker([*config, "sampler=uniform", "online.batch=2"])
    for name in vars(RolloutWorkerProtocol):
        if not name.startswith("_"):
            assert callable(getattr(worker, name)), name
    worker.start()
    try:
        worker.update_model_version(0)
        samples = [worker.rollout_buffer.get(timeout=60) for _ in range(8)]
        worker.update_model_version(1)
        samples += [worker.rollout_buffer.get(timeout=60) for _ in range(8)]
        worker.check_health(60)
    finally:
        worker.stop()
    assert {sample.model_version for sample in samples} <= {0, 1}
    assert len({sample.group_id for sample in samples}) >= 4
    for sample in samples:
        shape = sample.input_ids.shape
        assert shape == sample.completion_mask.shape == sample.old_log_probs.shape
        assert sample.completion_mask.any()
        assert (sample.old_log_probs[sample.completion_mask == 0] == 0).all()


def attend(
    query: Any, key: Any, value: Any, ends_q: Any, ends_k: Any, *_: Any, softmax_scale: float,
    causal: bool, window_size: tuple[int, int],
) -> Any:  # fmt: skip
    """What the trainer has a GPU's kernel for, which a CPU has not: flash_attn_varlen_func."""
    assert causal
    assert window_size == (-1, -1)
    pieces = []
    for number in range(len(ends_q) - 1):
        q = query[ends_q[number] : ends_q[number + 1]].transpose(0, 1)
        k = key[ends_k[number] : ends_k[number + 1]].transpose(0, 1)
        v = value[ends_k[number] : ends_k[number + 1]].transpose(0, 1)
        seen = torch.ones(q.shape[1], k.shape[1]).tril(k.shape[1] - q.shape[1]).bool()
        shown = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=softmax_scale
        )
        pieces.append(shown.transpose(0, 1))
    return torch.cat(pieces)


class Served:
    """TRL's WeightTransferProtocol for an engine that is a script."""

    def __init__(self) -> None:
        self.sent = 0

    def init_weight_transfer(self) -> None: ...

    def pause(self) -> None: ...

    def send_weights(self, iterator: Iterator[tuple[str, Any]]) -> None:
        self.sent += len(list(iterator)) > 0

    def resume(self) -> None: ...

    def destroy(self) -> None: ...


def test_async_grpo_trainer_takes_two_steps(
    config: list[str], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.experimental.async_grpo import (
        AsyncGRPOConfig,
        AsyncGRPOTrainer,
        async_grpo_trainer,
        packing,
    )

    # Of a GPU, for which it looks even on a CPU:
    monkeypatch.setattr(async_grpo_trainer, "get_peak_flops_per_device", lambda *_: None)
    monkeypatch.setattr(
        packing, "_flash_attn", lambda: SimpleNamespace(flash_attn_varlen_func=attend)
    )
    llama().save_pretrained(tmp_path / "model")
    worker = TrlRolloutWorker([*config, "sampler=uniform", "online.batch=2"])
    served = Served()
    trainer = AsyncGRPOTrainer(
        model=str(tmp_path / "model"),
        reward_funcs=rollout_reward,
        args=AsyncGRPOConfig(
            per_device_train_batch_size=8,
            num_generations=4,
            token_budget=4096,  # far more than a batch of ours
            **two_steps(tmp_path),
        ),
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list([{"prompt": "as the sampler says"}]),
        rollout_worker=worker,
        weight_transfer=served,
    )
    before = weights_of(trainer.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    assert trainer.state.global_step == 2
    assert served.sent >= 2
    assert any(
        not torch.equal(a, b) for a, b in zip(before, weights_of(trainer.model), strict=True)
    )
    with open_dataset(worker._background.source.uri) as dataset:
        versions = {group.oldest_version for group in dataset.groups()}
    assert 1 in versions, "what the trainer said before it started the worker was kept"


def test_a_sampler_and_a_trainer_that_draws_are_one_too_many(config: list[str]) -> None:
    with pytest.raises(ConfigError, match="sampler: TRL's GRPOTrainer says which"):
        TrlRollouts([*config, "sampler=uniform", "online.batch=2"])


def test_sft_trainer_takes_two_steps_on_what_was_solved(
    config: list[str], tokenizer: Any, tmp_path: Path
) -> None:
    rollouts = TrlRollouts(config)
    try:
        rollouts._background.submit("a", 8)
        rollouts._background.take(1)
        with open_dataset(rollouts._background.source.uri) as dataset:
            solved = sft_dataset(dataset)
            with pytest.raises(ValueError, match="no rollout with a reward"):
                sft_dataset(dataset, min_reward=2.0)
    finally:
        rollouts.close()
    assert all(row["messages"][-1]["content"] == "Done." for row in solved)
    policy = llama()
    before = weights_of(policy)
    trainer = trl.SFTTrainer(
        model=policy,
        args=trl.SFTConfig(
            per_device_train_batch_size=2,
            **two_steps(tmp_path),
        ),
        train_dataset=solved.remove_columns("tools"),
        processing_class=tokenizer,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, weights_of(policy), strict=True))


CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "touch a"}}\n</tool_call><|im_end|>'


def chat_tokenizer() -> Any:
    """Bytes and the marks of a chat template that TRL can read tool calls of."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={each: at for at, each in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    folder = Path(trl.__file__).parent / "chat_templates"
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=(folder / "qwen3.jinja").read_text(),
    )


def test_grpo_trainer_takes_two_steps_in_our_environments(
    config: list[str], tmp_path: Path
) -> None:
    from rollout.online.trl_environment import TrlEnvironments

    words = chat_tokenizer()
    policy = llama()
    call, silence = (words(text)["input_ids"] for text in (CALL, "No.<|im_end|>"))
    asked: list[int] = []

    def generate(input_ids: Any, **_: Any) -> Any:
        """Every other rollout calls the tool, once; what random weights would say is no call."""
        asked.append(len(input_ids))
        first = len(asked) % 2 == 1
        said = [call if first and at % 2 else silence for at in range(len(input_ids))]
        pads = [text + [words.pad_token_id] * (len(call) - len(text)) for text in said]
        return torch.cat([input_ids, torch.tensor(pads)], dim=1)

    policy.generate = generate
    before = weights_of(policy)
    environments = TrlEnvironments(config, max_steps=3)
    try:
        trainer = trl.GRPOTrainer(
            model=policy,
            args=trl.GRPOConfig(
                per_device_train_batch_size=4,
                num_generations=4,
                max_completion_length=512,
                **two_steps(tmp_path),
            ),
            train_dataset=environments.dataset().select([0, 0]),
            processing_class=words,
            environment_factory=environments,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train()
    finally:
        environments.close()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert rewards == [0.5, 0.5], "the scorer's verdict on what the calls left"
    assert asked == [4, 2, 4, 2]
    assert any(not torch.equal(a, b) for a, b in zip(before, weights_of(policy), strict=True))


def test_an_environment_is_what_trl_asks_of_one(config: list[str]) -> None:
    import inspect

    from transformers.utils import get_json_schema

    from rollout.online.trl_environment import TrlEnvironments

    environments = TrlEnvironments(config, max_steps=3)
    try:
        rows = environments.dataset()
        assert rows[0]["task_id"] == "a"
        one, other = environments(), environments()
        public = [n for n, _ in inspect.getmembers(type(one), inspect.isfunction) if n[0] != "_"]
        assert sorted(public) == ["bash", "get_reward", "reset"], "all others would be tools"
        schema = get_json_schema(one.bash)["function"]
        assert (schema["name"], list(schema["parameters"]["properties"])) == ("bash", ["command"])
        assert one.reset(**rows[0]) == "make a"
        assert other.reset(**rows[1]) == "make b"
        assert "hello" in one.bash("echo hello; touch a")
        assert (one.get_reward(), other.get_reward()) == (1.0, 0.0)
        assert one.get_reward() == 1.0, "asked twice, scored once"
        assert one.bash("ls") == "The episode is over."
        one.reset(**rows[0])
        for _ in range(3):
            one.bash("true")
        assert one.get_reward() == 0.0
    finally:
        environments.close()
