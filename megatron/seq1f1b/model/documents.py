"""Packed documents as a forward step gives them, and as chunked attention reads them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from megatron.seq1f1b.attention import DocumentStarts
from megatron.seq1f1b.errors import ConfigurationError


@dataclass(kw_only=True)
class DocumentParams(PackedSeqParams):
    """Where the documents of a microbatch's whole sequences start."""

    qkv_format: str = "sbhd"
    document_starts: DocumentStarts | None = None


class DocumentReader:
    """Reads the documents that a forward step gives as `packed_seq_params`.

    Lengths are read from the device once per microbatch: its chunks bring the same tensor, as a rule.
    """

    def __init__(self) -> None:
        self._lengths: torch.Tensor | None = None
        self._starts: DocumentStarts = ()

    def __call__(self, given: object, *, seq_length: int, num_sequences: int | None) -> DocumentStarts | None:
        """Starts for each sequence; None where the sequences are one document each.

        Args:
            given: None, `DocumentParams`, or Megatron-Core's `PackedSeqParams` in the `thd` format, whose
                `cu_seqlens_q` hold the ends of the documents of the one packed sequence.
            seq_length: S, of the whole sequence.
            num_sequences: of the microbatch, None where it is not known.

        Raises:
            ConfigurationError: packed sequences that mean something else.
        """
        if given is None:
            return None
        if isinstance(given, DocumentParams):
            return given.document_starts
        if not isinstance(given, PackedSeqParams):
            raise ConfigurationError(
                f"packed_seq_params is a {type(given).__name__}; chunked schedules read Megatron-Core's "
                "PackedSeqParams"
            )
        lengths = given.cu_seqlens_q_padded if given.cu_seqlens_q_padded is not None else given.cu_seqlens_q
        if lengths is None:
            return None
        _check(given, num_sequences)
        if lengths is not self._lengths:
            self._lengths, self._starts = lengths, (_starts(lengths, seq_length),)
        return self._starts


def _starts(lengths: torch.Tensor, seq_length: int) -> tuple[int, ...]:
    """From cumulated lengths to starts; what lies behind the last document is one of its own."""
    ends = [int(end) for end in lengths.tolist()]
    if ends[:1] != [0] or ends != sorted(ends) or ends[-1] > seq_length:
        raise ConfigurationError(
            f"cu_seqlens_q {ends} must start at 0, not decrease, and end within seq_length {seq_length}"
        )
    return tuple(sorted({end for end in ends if end < seq_length}))


def _check(given: PackedSeqParams, num_sequences: int | None) -> None:
    if num_sequences not in (None, 1):
        raise ConfigurationError(
            f"packed_seq_params with cu_seqlens came with {num_sequences} sequences; as in Megatron-Core's "
            "thd format, pack the documents of a microbatch into one sequence"
        )
    if given.local_cp_size not in (None, 1):
        raise ConfigurationError(
            f"packed_seq_params asks for context parallelism over {given.local_cp_size} ranks; chunks "
            "already divide the sequence: use 1"
        )
    for queries, keys in (
        (given.cu_seqlens_q, given.cu_seqlens_kv),
        (given.cu_seqlens_q_padded, given.cu_seqlens_kv_padded),
    ):
        if keys is not None and keys is not queries and not torch.equal(queries, keys):
            raise ConfigurationError(
                "cu_seqlens_q and cu_seqlens_kv differ, but in self-attention documents have as many "
                "queries as keys; give the same for both"
            )
