"""Every derived number of a run, printed before step 0."""

from __future__ import annotations

from megatron.seq1f1b.chunk import chunks_from
from megatron.seq1f1b.config import TrainingOptions
from megatron.seq1f1b.config.batch_sizes import BatchSizes
from megatron.seq1f1b.planning.stage_costs import flop_costs
from megatron.seq1f1b.schedule import simulate
from megatron.seq1f1b.training.prepare import Run


def banner(run: Run, *, num_parameters: int, device: str, optimizer: str, attention: str) -> str:
    """The banner's lines; `num_parameters` counts the whole model once."""
    config, layout = run.config, run.layout
    parallel, training = config.parallel, config.training
    lengths = ", ".join(str(chunk.length) for chunk in chunks_from(run.boundaries))
    tokens = layout.global_batch_size * training.seq_length
    rows = {
        "layout": (
            f"{layout.world_size} processes on {device}: "
            f"tensor {parallel.tensor_model_parallel_size}"
            f"{' (sequence parallel)' if parallel.sequence_parallel else ''}"
            f" x pipeline {parallel.pipeline_model_parallel_size}"
            f" ({layout.num_virtual_stages} virtual)"
            f" x data {layout.data_parallel_size}"
        ),
        "model": (
            f"{num_parameters / 1e6:,.1f} M parameters, {config.model.num_layers} layers{_per_stage(run)}, "
            f"hidden {config.model.hidden_size}, {run.tokenizer.vocab_size} ids "
            f"({run.dimensions.padded_vocab_size} padded)"
        ),
        "batch": (
            f"{tokens:,} tokens per step: {layout.global_batch_size} sequences of "
            f"{training.seq_length} in {layout.num_microbatches} microbatches per data-parallel rank"
            f"{_growth(layout.batch_sizes)}"
        ),
        "schedule": f"{layout.schedule}, {_source(layout.uses_upstream_schedule)}",
        "chunks": (
            f"{config.schedule.pipe_sp_splits} of {lengths} tokens ({config.schedule.pipe_sp_strategy}"
            f"{_assumption(run)})"
        ),
        "predicted bubble": f"{predicted_bubble(run):.1%} (from FLOPs)",
        "attention": f"{attention}{' (auto)' if config.model.attention_backend == 'auto' else ''}",
        "precision": _precision(training),
        "optimizer": f"{optimizer}, {'distributed' if parallel.use_distributed_optimizer else 'replicated'}",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:>{width}} : {text}" for name, text in rows.items())


def predicted_bubble(run: Run) -> float:
    """Idle share of a step that the simulator predicts from FLOPs, messages for nothing."""
    plan = run.compute_plan(run.layout.num_microbatches, False)
    return simulate(plan, flop_costs(run)).bubble_fraction


def _precision(training: TrainingOptions) -> str:
    if training.fp16:
        scale = "adapting" if training.loss_scale is None else f"{training.loss_scale:g}"
        return f"float16, float32 master weights, loss scale {scale}"
    return "bfloat16, float32 master weights" if training.bf16 else "float32"


def _per_stage(run: Run) -> str:
    """How uneven stages share the layers; nothing where they are even."""
    layers = run.layout.layers_of_virtual_stages
    if len(set(layers)) == 1:
        return ""
    return f" ({', '.join(map(str, layers))} on the {'virtual ' * (run.layout.num_virtual_stages > 1)}stages)"


def _growth(sizes: BatchSizes) -> str:
    if not sizes.rampup_samples:
        return ""
    return f", grown from {sizes.start} by {sizes.increment} over {sizes.rampup_samples:,} samples"


def _assumption(run: Run) -> str:
    """What balanced chunks and predicted times take for granted where documents are in the data alone."""
    if not run.config.data.reset_attention_mask:
        return ""
    return "; costs, as of MFU and the predicted bubble, are those of one document per sequence"


def _source(is_upstream: bool) -> str:
    return "Megatron-Core's own function" if is_upstream else "executed from its plan"
