"""Options that were set and that nothing reads, because of what other options say.

Launch lines from elsewhere are full of them, so they are not refused; but nothing is passed over
in silence. What would train another model than was meant is refused in `validation.py` instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from megatron.seq1f1b.config.options import Config

_Idle = tuple[object, tuple[str, ...], str]
"""A section of options, some of its fields, and why they are not read."""


def idle_notes(config: Config, *, train_iters: int) -> list[str]:
    """One line for each option that differs from its default and changes nothing in so many steps."""
    return [
        f"--{field.name.replace('_', '-')} {_text(getattr(options, field.name))} changes nothing here: {why}"
        for options, names, why in _idle(config, train_iters)
        for field in dataclasses.fields(options)  # type: ignore[arg-type]
        if field.name in names and getattr(options, field.name) not in (field.default, [])
    ]


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _idle(config: Config, train_iters: int) -> Iterator[_Idle]:
    data, training, optimizer = config.data, config.training, config.optimizer
    positions = config.positions
    if positions.position_embedding_type != "rope":
        own = ("position_embedding_type", "max_position_embeddings")
        names = tuple(each.name for each in dataclasses.fields(positions) if each.name not in own)
        yield positions, names, f"positions are {positions.position_embedding_type}; rotary ones are rope"
    if config.model.init_method_xavier_uniform:
        yield config.model, ("init_method_std",), "weights are drawn as Xavier's rule says"
    if not training.bf16:
        precision = ("disable_bf16_reduced_precision_matmul",)
        yield training, precision, "matrices are not in bfloat16; see --bf16"
    if config.schedule.pipe_sp_splits == 1:
        yield config.schedule, ("pipe_sp_strategy",), "there is one chunk per sequence; see --pipe-sp-splits"
    if not training.fp16:
        scale = ("initial_loss_scale", "min_loss_scale", "loss_scale_window", "hysteresis")
        yield training, scale, "losses are scaled with --fp16 only"
    if not training.eval_iters:
        why = "--eval-iters is 0, so nothing is validated"
        yield training, ("eval_interval",), why
        yield data, ("valid_data_path", "multiple_validation_sets"), why
    interval = training.eval_interval
    if interval > train_iters and not data.test_data_path:
        yield (
            training,
            ("eval_iters",),
            f"--eval-interval {interval} is more than the run's {train_iters} steps",
        )
    if not (optimizer.lr_warmup_iters or optimizer.lr_warmup_samples or optimizer.lr_warmup_fraction):
        yield optimizer, ("lr_warmup_init",), "there is no warmup"
    if optimizer.lr_decay_style == "constant":
        yield optimizer, ("min_lr",), "a constant learning rate does not fall"
    if optimizer.decoupled_lr is not None and optimizer.lr_decay_style == "constant":
        yield optimizer, ("decoupled_min_lr",), "a constant learning rate does not fall"
    if optimizer.optimizer == "sgd":
        adam = ("adam_beta1", "adam_beta2", "adam_eps", "decoupled_weight_decay")
        yield optimizer, adam, "--optimizer is sgd, whose weight decay is a part of the gradient"
    else:
        yield optimizer, ("sgd_momentum",), "--optimizer is adam"
    if not config.model.qk_layernorm:
        norms = ("apply_wd_to_qk_layernorm",)
        yield optimizer, norms, "queries and keys have no norms without --qk-layernorm"
    if not (config.experts.moe_aux_loss_coeff or config.experts.moe_z_loss_coeff):
        yield config.experts, ("moe_per_layer_logging",), "routers have no auxiliary losses"
    if not config.run.manual_gc:
        yield config.run, ("manual_gc_interval", "manual_gc_eval"), "Python collects as usual"
    if config.checkpoint.save is None:
        yield config.checkpoint, ("save_interval",), "nothing is saved without --save"
    if data.mock_data or data.train_data_path:
        source = "--mock-data" if data.mock_data else "--train-data-path"
        yield data, ("split",), f"there is nothing to split with {source}"
    if data.mock_data:
        files = ("data_cache_path", "num_dataset_builder_threads", "no_mmap_bin_files")
        yield data, files, "no files are read with --mock-data"
    if data.tokenizer_type != "GPT2BPETokenizer":
        yield data, ("vocab_file", "merge_file"), f"{data.tokenizer_type} reads no such file"
