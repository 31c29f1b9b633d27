"""Hugging Face's own logits for random tokens; run as a program, in a process of its own.

What `upstream` changes in torch so that Megatron-Core runs on CPU would leave transformers' rotary
tables unset: nothing of this package is imported here.

    python reference.py FOLDER OUTPUT
"""

from __future__ import annotations

import importlib
import sys

import torch
from safetensors.torch import save_file

_SEQUENCES, _TOKENS = 2, 64


def main(folder: str, output: str) -> None:
    """Write `tokens` [sequences, tokens] and `logits` [sequences, tokens, ids], float32."""
    models = importlib.import_module("transformers").AutoModelForCausalLM
    model = models.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    length = min(_TOKENS, model.config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (_SEQUENCES, length), generator=generator)
    with torch.no_grad():
        logits = model(tokens).logits
    save_file({"tokens": tokens, "logits": logits.contiguous()}, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
