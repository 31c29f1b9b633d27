"""`--parity-check N`: is what the schedule computes what whole sequences under 1F1B compute?

Before training, N steps are computed twice from the same weights and the same data: by the run's
schedule and chunks, and by 1F1B on whole sequences under the same layout (Megatron-Core's own function
where it serves the run). The loss and the gradient of every parameter are compared; then the weights
take the step, and the next is compared. Dropout is off meanwhile. Afterwards weights, optimizer,
learning rate, loss scale, random generators and data are where they were, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.config.layout import UPSTREAM_SCHEDULES
from megatron.seq1f1b.config.options import TrainingOptions
from megatron.seq1f1b.config.upstream_schedules import check_upstream_schedule
from megatron.seq1f1b.data.samples import SampleDataset
from megatron.seq1f1b.errors import ConfigurationError, ParityError
from megatron.seq1f1b.runtime.chunked_schedule import ChunkedSchedule
from megatron.seq1f1b.schedule import check_schedule
from megatron.seq1f1b.training.build import Trained
from megatron.seq1f1b.training.console import say
from megatron.seq1f1b.training.evaluation import Iterators
from megatron.seq1f1b.training.gradient_differences import Difference, kept_gradients, largest_difference
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.training.snapshot import Snapshot
from megatron.seq1f1b.training.steps import (
    ForwardBackward,
    data_iterators,
    gradients,
    log_totals,
    make_forward_backward,
)

_LOSS_SHARE = 0.1
_SCALE_STEP = 16.0


def default_tolerance(training: TrainingOptions) -> float:
    """The largest relative difference of a gradient that is taken for rounding, by precision.

    Chunks change the order of sums alone. An element of a gradient is a sum over tokens of products
    that were rounded to the precision's unit u (fp32 1.2e-7, fp16 9.8e-4, bf16 7.8e-3) after tens of
    operations each; such errors are independent and average out, so differences of a few u are usual:
    at most 2.3e-6, 4.0e-3 and 2.6e-2 for small models (the last two with normalised queries and keys).
    The bounds are a few u in half precision and a thousand in fp32, where there is room for depth. A
    mistake of the schedule is far above: if later chunks pass no gradient back to their prefix, keys
    and values are 0.6 to 1.9 off.
    The loss, a mean over many tokens, is allowed a tenth of the bound.
    """
    if training.fp16:
        return 1e-2
    return 5e-2 if training.bf16 else 1e-4


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One of the two ways to compute a step."""

    run: Run
    forward_backward: ForwardBackward
    iterators: Iterators


def check_parity(run: Run, trained: Trained, dataset: SampleDataset, *, iteration: int) -> None:
    """Compare the steps after `iteration`, and say how far they are apart; collective.

    Raises:
        ParityError: further than the tolerance.
    """
    num_steps = min(run.config.run.parity_check or 0, run.layout.train_iters - iteration)
    if num_steps <= 0:
        return
    reference = reference_of(run)
    tolerance = run.config.run.parity_tolerance or default_tolerance(run.config.training)
    say(f"parity check: {_describe(run)} against {_describe(reference)}")
    snapshot = Snapshot.take(trained)
    with _without_dropout(trained):
        _fit_loss_scale(reference, trained, dataset, iteration)
        sides = [_side(each, dataset, iteration) for each in (reference, run)]
        for step in range(iteration + 1, iteration + num_steps + 1):
            _check_step(sides, trained, step, tolerance)
        for side in sides:
            _close(side)
    _put_back(run, trained, snapshot)
    say(f"  all within {tolerance:g} (losses {_LOSS_SHARE * tolerance:g}); training starts from where it was")


def reference_of(run: Run) -> Run:
    """The same run with whole sequences: by Megatron-Core's own schedule where it can, else by ours.

    A run that is Megatron-Core's itself is checked against ours.
    """
    names = (
        ("1f1b", "seq1f1b") if run.layout.num_virtual_stages == 1 else ("interleaved", "seq1f1b-interleaved")
    )
    name = next(name for name in names if _serves(name, run))
    schedule = replace(
        run.config.schedule,
        pipeline_schedule=name,
        pipe_sp_splits=1,
        zero_bubble_max_pending_weight_grads=None,
    )
    return replace(
        run,
        config=replace(run.config, schedule=schedule),
        layout=replace(run.layout, schedule=name),
        boundaries=(0, run.config.training.seq_length),
        plan_file=None,
    )


def _serves(name: str, run: Run) -> bool:
    if name == run.layout.schedule and run.config.schedule.pipe_sp_splits == 1:
        return False
    try:
        if name in UPSTREAM_SCHEDULES:
            check_upstream_schedule(run.config, schedule=name)
        for size in run.layout.batch_sizes.sizes:
            check_schedule(
                name,
                stages=run.config.parallel.pipeline_model_parallel_size,
                microbatches=run.layout.num_microbatches_of(size),
                chunks=1,
                virtual_stages=run.layout.num_virtual_stages,
            )
    except ConfigurationError:
        return False
    return True


def _describe(run: Run) -> str:
    chunks = run.config.schedule.pipe_sp_splits
    whose = "Megatron-Core's " if run.layout.uses_upstream_schedule else ""
    return f"{whose}{run.layout.schedule} of {f'{chunks} chunks' if chunks > 1 else 'whole sequences'}"


def _side(run: Run, dataset: SampleDataset, iteration: int) -> _Side:
    sizes = run.layout.batch_sizes
    consumed = sizes.consumed_after(iteration)
    return _Side(
        run=run,
        forward_backward=make_forward_backward(run),
        iterators=data_iterators(run, dataset, consumed_samples=consumed, batch_size=sizes.at),
    )


def _close(side: _Side) -> None:
    if isinstance(side.forward_backward, ChunkedSchedule):
        side.forward_backward.close()


def _check_step(sides: Sequence[_Side], trained: Trained, step: int, tolerance: float) -> None:
    """Both sides' gradients of one step compared, and the step taken with the second's."""
    batch_size = sides[0].run.layout.batch_sizes.of_step(step)
    expected_loss = _compute(sides[0], trained, batch_size)
    expected = kept_gradients(trained)
    found_loss = _compute(sides[1], trained, batch_size)
    scale = float(trained.optimizer.get_loss_scale())
    gradient = largest_difference(trained, expected, scale=scale)
    loss = _loss_difference(found_loss, expected_loss)
    line = (
        f"  step {step}: loss {found_loss:.6f} and {expected_loss:.6f}, {loss.relative:.1e} apart; gradients "
        f"{gradient.relative:.1e} at most ({gradient.absolute:.1e} absolute), of {gradient.name}"
    )
    if not (gradient.relative <= tolerance and loss.relative <= _LOSS_SHARE * tolerance):
        raise ParityError(
            f"--parity-check: this run does not compute what whole sequences compute, within "
            f"{tolerance:g} for gradients and {_LOSS_SHARE * tolerance:g} for the loss:\n{line}\n"
            "nothing was trained; report it with the command line, or give --parity-tolerance if this "
            "model's gradients are known to be as sensitive to rounding"
        )
    say(line)
    trained.optimizer.step()
    trained.scheduler.step(increment=batch_size)


def _compute(side: _Side, trained: Trained, batch_size: int) -> float:
    """Gradients into `main_grad`; returns the loss of the step, equal on every process."""
    config = trained.transformer
    before = config.no_sync_func
    if side.run.layout.uses_upstream_schedule:
        no_sync = [part.no_sync for part in trained.parts]
        config.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]
    else:
        config.no_sync_func = None
    try:
        logs = gradients(side.run, trained, side.forward_backward, side.iterators, batch_size=batch_size)
    finally:
        config.no_sync_func = before
    totals = log_totals(logs) if parallel_state.get_tensor_model_parallel_rank() == 0 else [0.0, 0.0]
    whole = torch.tensor(totals, dtype=torch.float64, device=torch.device(torch.cuda.current_device()))
    dist.all_reduce(whole)
    return float(whole[0] / whole[1].clamp(min=1.0))


def _loss_difference(found: float, expected: float) -> Difference:
    apart = abs(found - expected)
    relative = apart / abs(expected) if expected else apart
    return Difference(relative if math.isfinite(relative) else math.inf, apart, "loss")


def _fit_loss_scale(reference: Run, trained: Trained, dataset: SampleDataset, iteration: int) -> None:
    """Lower an adapting loss scale until gradients are finite; training begins with its own again."""
    training = reference.config.training
    if not training.fp16 or training.loss_scale is not None:
        return
    side = _side(reference, dataset, iteration)
    batch_size = reference.layout.batch_sizes.of_step(iteration + 1)
    while float(trained.optimizer.get_loss_scale()) > 1.0:
        _compute(side, trained, batch_size)
        if _are_finite(trained):
            break
        for each in getattr(trained.optimizer, "chained_optimizers", [trained.optimizer]):
            each.get_loss_scale().div_(_SCALE_STEP)
        side = replace(side, iterators=_side(reference, dataset, iteration).iterators)
    _close(side)


def _are_finite(trained: Trained) -> bool:
    finite = [
        torch.isfinite(parameter.main_grad).all() for part in trained.parts for parameter in part.parameters()
    ]
    count = (~torch.stack(finite)).sum()
    dist.all_reduce(count)
    return int(count) == 0


@contextmanager
def _without_dropout(trained: Trained) -> Iterator[None]:
    """Chunks draw other random numbers than whole sequences do."""
    changed: list[tuple[torch.nn.Module, str, float]] = []
    for part in trained.parts:
        for module in part.modules():
            name = "p" if isinstance(module, torch.nn.Dropout) else "hidden_dropout"
            if isinstance(getattr(module, name, None), float):
                changed.append((module, name, getattr(module, name)))
                setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)


def _put_back(run: Run, trained: Trained, snapshot: Snapshot) -> None:
    if run.config.parallel.overlap_param_gather:
        # The last update's parameters are gathered by a forward that is not to come.
        for part in trained.parts:
            part.start_param_sync(force_sync=True)
    snapshot.put_back(trained)
    for part in trained.parts:
        part.zero_grad_buffer()
    trained.optimizer.zero_grad()
