"""Tokenizers by Megatron's names, over the libraries of their makers."""

from megatron.seq1f1b.data.tokenizers.base import Tokenizer
from megatron.seq1f1b.data.tokenizers.build import TOKENIZER_TYPES, build_tokenizer

__all__ = ["TOKENIZER_TYPES", "Tokenizer", "build_tokenizer"]
