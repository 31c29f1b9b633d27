"""How many layers each virtual stage gets, under Megatron's rules for uneven pipelines.

Embedding and loss can be counted as a layer each: the first and the last virtual stage then have one
layer less than the others. A layout says everything by itself.
"""

from __future__ import annotations

from megatron.seq1f1b.config import pipeline_layout
from megatron.seq1f1b.config.sections.model import ModelOptions
from megatron.seq1f1b.config.sections.parallel import ParallelOptions
from megatron.seq1f1b.errors import ConfigurationError

_FIRST, _LAST = "--decoder-first-pipeline-num-layers", "--decoder-last-pipeline-num-layers"
_EMBEDDING, _LOSS = "--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split"
_PER_PART, _PARTS = "--num-layers-per-virtual-pipeline-stage", "--num-virtual-stages-per-pipeline-rank"


def layers_of_virtual_stages(model: ModelOptions, parallel: ParallelOptions) -> tuple[int, ...]:
    """Layers of every virtual stage, 0 to p v - 1; virtual stage s lives on pipeline rank s mod p.

    Raises:
        ConfigurationError: the layers do not divide as asked.
    """
    _check_ways(parallel)
    if parallel.pipeline_model_parallel_layout is not None:
        return pipeline_layout.layers_of_layout(
            parallel.pipeline_model_parallel_layout,
            num_layers=model.num_layers,
            stages=parallel.pipeline_model_parallel_size,
        )
    layers = _layers_of_stages(model, parallel)
    virtual = _num_virtual_stages(layers, parallel)
    for stage, count in enumerate(layers):
        if count % virtual:
            raise ConfigurationError(
                f"the {count} layers of stage {stage} do not divide over {virtual} virtual stages; "
                f"change --num-layers, {_FIRST} or {_LAST}, or the number of virtual stages"
            )
    parts = [count // virtual for _ in range(virtual) for count in layers]
    parts[0] -= parallel.account_for_embedding_in_pipeline_split
    parts[-1] -= parallel.account_for_loss_in_pipeline_split
    return tuple(parts)


def _check_ways(parallel: ParallelOptions) -> None:
    """One way at a time of saying who gets what."""
    given = {
        pipeline_layout.FLAG: parallel.pipeline_model_parallel_layout is not None,
        _EMBEDDING: parallel.account_for_embedding_in_pipeline_split,
        _LOSS: parallel.account_for_loss_in_pipeline_split,
        _FIRST: parallel.decoder_first_pipeline_num_layers is not None,
        _LAST: parallel.decoder_last_pipeline_num_layers is not None,
        _PER_PART: parallel.num_layers_per_virtual_pipeline_stage is not None,
        _PARTS: parallel.num_virtual_stages_per_pipeline_rank is not None,
    }
    excluded = {
        pipeline_layout.FLAG: (_EMBEDDING, _LOSS, _FIRST, _LAST, _PER_PART, _PARTS),
        _EMBEDDING: (_FIRST, _LAST),
        _LOSS: (_FIRST, _LAST),
    }
    for flag, others in excluded.items():
        for other in others:
            if given[flag] and given[other]:
                raise ConfigurationError(
                    f"{flag} and {other} are two ways to say which stage has how many layers; give one"
                )


def _layers_of_stages(model: ModelOptions, parallel: ParallelOptions) -> list[int]:
    """Layers of every pipeline rank, embedding and loss counted in where they are to be."""
    stages = parallel.pipeline_model_parallel_size
    first, last = parallel.decoder_first_pipeline_num_layers, parallel.decoder_last_pipeline_num_layers
    _check_uneven(model.num_layers, stages, first, last)
    counted = parallel.account_for_embedding_in_pipeline_split + parallel.account_for_loss_in_pipeline_split
    middle, left = stages, model.num_layers + counted
    for fixed in (first, last):
        if fixed is not None:
            middle, left = middle - 1, left - fixed
    if left < middle or (middle and left % middle) or (not middle and left):
        raise ConfigurationError(_uneven_message(model.num_layers, parallel, left=left, middle=middle))
    layers = [left // middle if middle else 0] * stages
    layers[0] = layers[0] if first is None else first
    layers[-1] = layers[-1] if last is None else last
    return layers


def _check_uneven(num_layers: int, stages: int, first: int | None, last: int | None) -> None:
    for flag, count in ((_FIRST, first), (_LAST, last)):
        if count is None:
            continue
        if stages == 1:
            raise ConfigurationError(
                f"{flag} {count} needs --pipeline-model-parallel-size of 2 or more: one stage has all layers"
            )
        if not 0 < count < num_layers:
            raise ConfigurationError(
                f"{flag} {count} must be at least 1 and leave layers for other stages; "
                f"--num-layers is {num_layers}"
            )


def _uneven_message(num_layers: int, parallel: ParallelOptions, *, left: int, middle: int) -> str:
    stages = parallel.pipeline_model_parallel_size
    fixed = [
        f"{flag} {count}"
        for flag, count in (
            (_FIRST, parallel.decoder_first_pipeline_num_layers),
            (_LAST, parallel.decoder_last_pipeline_num_layers),
        )
        if count is not None
    ]
    if not fixed:
        counted = left - num_layers
        below, above = left // stages * stages - counted, (left // stages + 1) * stages - counted
        return (
            f"--num-layers {num_layers}{f' and {counted} for embedding or loss' if counted else ''} is not "
            f"divisible by --pipeline-model-parallel-size {stages}; "
            f"use {f'{below} or ' if below > 0 else ''}{above} layers, or {_FIRST} and {_LAST}"
        )
    return (
        f"{' and '.join(fixed)} leave {left} of --num-layers {num_layers} for {middle} other stages, "
        "which get equally many, at least one each; change one of these numbers"
    )


def _num_virtual_stages(layers: list[int], parallel: ParallelOptions) -> int:
    """v, from either of the two flags that can say it."""
    per_part, asked = (
        parallel.num_layers_per_virtual_pipeline_stage,
        parallel.num_virtual_stages_per_pipeline_rank,
    )
    if per_part is None and asked is None:
        return 1
    if per_part is not None and asked is not None:
        raise ConfigurationError(
            f"{_PER_PART} {per_part} and {_PARTS} {asked} say the same thing twice; give one"
        )
    flag, number = (_PER_PART, per_part) if per_part is not None else (_PARTS, asked)
    assert number is not None
    if number < 1:
        raise ConfigurationError(f"{flag} {number} must be at least 1")
    if len(layers) == 1:
        raise ConfigurationError(
            f"{flag} needs --pipeline-model-parallel-size of 2 or more: one stage has nothing to "
            "interleave with"
        )
    return number if per_part is None else _parts_of(layers, number)


def _parts_of(layers: list[int], per_part: int) -> int:
    if len(set(layers)) > 1:
        raise ConfigurationError(
            f"{_PER_PART} {per_part} means nothing where stages have {', '.join(map(str, layers))} "
            f"layers; use {_PARTS}"
        )
    if layers[0] % per_part:
        raise ConfigurationError(
            f"{_PER_PART} {per_part} does not divide the {layers[0]} layers of a stage "
            f"({sum(layers)} layers over {len(layers)} stages)"
        )
    return layers[0] // per_part
