"""Checkpoints to and from Hugging Face's format: `config.json` and safetensors files.

`families.py` says which model a configuration is, in either language; `weights.py` renames and
reorders tensors; `files.py` reads and writes the folder; `convert.py` goes from checkpoint to
checkpoint; `logits.py` runs both models on the same tokens.
"""
