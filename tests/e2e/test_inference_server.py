"""A real inference server, transformers' own, with a tiny model of random weights, serves a run.

It runs where there is a `transformers` command with its `serving` extra and torch; they are no
dependencies of ours, not even for tests: `pip install torch 'transformers[serving]'`.
"""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.test_models import rows, start

SERVER = shutil.which("transformers")
pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(SERVER is None, reason="there is no transformers command"),
]
PATIENCE_S = 120.0
MAKE = """
import sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = ["<|begin|>", "<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
tokenizer = Tokenizer(models.BPE(vocab={word: n for n, word in enumerate(words)}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
fast.chat_template = (
    "{% for m in messages %}<|begin|>{{ m['role'] }} {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant {% endif %}"
)
fast.save_pretrained(sys.argv[1])
LlamaForCausalLM(LlamaConfig(
    vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=8192,
    bos_token_id=0, eos_token_id=1, pad_token_id=1,
)).save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Its base URL, and the model's name there."""
    assert SERVER is not None
    folder = tmp_path_factory.mktemp("model")
    python = Path(SERVER).with_name("python")
    subprocess.run([python, "-c", MAKE, folder], check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    server = subprocess.Popen(
        [SERVER, "serve", str(folder), "--device", "cpu", "--port", str(port)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        give_up_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_s:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        server.kill()
        server.wait()


def test_it_serves_a_run_from_end_to_end(served: tuple[str, str], tmp_path: Path) -> None:
    url, name = served
    done = start(
        tmp_path, "model=openai", f"model.name={name}", f"model.urls=[{url}]", "samples=4",
        "agent.tools=fenced", "agent.max_turns=2", "+model.sampling.max_tokens=32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path)
    assert [(row["outcome"], row["reward"]) for row in found] == [("max_turns", 0.0)] * 8
    for row in found:
        steps = [step for step in row["steps"] if step["source"] == "agent"]
        assert len(steps) == 2
        assert sum(step["prompt_tokens"] for step in steps) == row["prompt_tokens"] > 500
        assert 0 < row["completion_tokens"] <= 64


def test_what_it_cannot_tell_is_refused_at_the_start(
    served: tuple[str, str], tmp_path: Path
) -> None:
    url, name = served
    done = start(
        tmp_path, "model=openai", f"model.name={name}", f"model.urls=[{url}]",
        "agent.tools=fenced", "model.capture=tokens",
    )  # fmt: skip
    assert done.returncode != 0
    assert "return_token_ids" in done.stderr
