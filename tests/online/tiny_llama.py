"""A random language model of a few thousand weights, for trainers that are not ours."""

from typing import Any

VOCABULARY = 320
"""The scripted engine's tokens are bytes and a few more."""


def llama() -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=4096,
        )
    )


def weights_of(model: Any) -> list[Any]:
    return [weight.detach().clone() for weight in model.parameters()]


def log_probs(model: Any, ids: Any, attention_mask: Any) -> Any:
    """Of each token but the first, as the model predicts it from those before."""
    logits = model(input_ids=ids, attention_mask=attention_mask).logits[:, :-1]
    return logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
