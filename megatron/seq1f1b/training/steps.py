"""One training step: batches, forward-backward under the run's schedule, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from megatron.core import parallel_state

from megatron.seq1f1b.data import TensorParallelBatches, batches
from megatron.seq1f1b.data.order import BatchSizeAt
from megatron.seq1f1b.data.samples import SampleDataset
from megatron.seq1f1b.model.prefix_states import KVCachePool
from megatron.seq1f1b.runtime.chunked_schedule import ChunkedSchedule
from megatron.seq1f1b.training.build import Trained
from megatron.seq1f1b.training.clock import PhaseClock, TimedIterator
from megatron.seq1f1b.training.documents import DocumentReader
from megatron.seq1f1b.training.finite import WATCH, check_finite
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.upstream.auxiliary_losses import take_auxiliary_losses
from megatron.seq1f1b.upstream.step import get_forward_backward_func

LOSS = "lm loss"
_with_documents = DocumentReader()
ForwardBackward = Callable[..., list[dict[str, torch.Tensor]]]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step says of itself on this rank."""

    loss_sum: float
    """Over this rank's tokens; zero off the last stage."""
    num_loss_tokens: float
    grad_norm: float | None
    is_skipped: bool
    """Whether the optimizer refused the gradients (not finite)."""
    num_zeros_in_grad: int | None
    forward_backward_seconds: float
    optimizer_seconds: float
    data_wait_seconds: float
    auxiliary_losses: Mapping[str, Sequence[float]]
    """Of experts' routers by Megatron-Core's name: what this rank adds to each layer's mean over the step."""


def forward_step(
    data_iterator: Iterator[Mapping[str, torch.Tensor]], model: torch.nn.Module
) -> tuple[
    torch.Tensor, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]
]:
    """Megatron's forward step, on a whole microbatch; a stage without data gets none."""
    batch = next(data_iterator) if data_iterator is not None else {}
    output = model(
        batch.get("tokens"),
        batch.get("position_ids"),
        None,
        labels=batch.get("labels"),
        packed_seq_params=_with_documents(batch),
    )
    return output, partial(_watched_loss, batch)


def _watched_loss(
    batch: Mapping[str, torch.Tensor], losses: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    result = loss_sum(batch.get("loss_mask"), losses)
    WATCH.add(result[0], losses)
    return result


def loss_sum(
    loss_mask: torch.Tensor | None, losses: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """(sum of the losses that count, how many count, both for the log); tensors [batch, tokens]."""
    assert loss_mask is not None, "a stage that computes the loss reads batches"
    total = torch.sum(losses * loss_mask.to(losses.dtype))
    count = loss_mask.sum()
    log = {LOSS: torch.stack([total.detach(), count.to(total.dtype)])}
    return total, count.to(torch.int), log


def make_forward_backward(run: Run) -> ForwardBackward:
    """The `forward_backward_func` of the run's schedule: Megatron-Core's own, or ours."""
    if run.layout.uses_upstream_schedule:
        upstream: ForwardBackward = get_forward_backward_func()
        return upstream
    return ChunkedSchedule(
        make_plan=run.make_plan,
        boundaries=run.boundaries,
        make_prefix_states=KVCachePool(),
    )


def data_iterators(
    run: Run,
    dataset: SampleDataset | None,
    *,
    consumed_samples: int = 0,
    batch_size: int | BatchSizeAt | None = None,
) -> list[Iterator[Mapping[str, torch.Tensor]] | None]:
    """One iterator per model part of this rank; None for parts that need no tokens.

    Only the first and the last virtual stage read data, or all of them where attention must know
    the documents; and of each tensor-parallel group one rank. Without a `batch_size` every step is
    a full batch.
    """
    parts = run.layout.num_virtual_stages
    iterators: list[Iterator[Mapping[str, torch.Tensor]] | None] = []
    for part in range(parts):
        vp_stage = part if parts > 1 else None
        is_first = parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage)
        is_last = parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage)
        is_reader = is_first or is_last or run.config.data.reset_attention_mask
        if is_reader and dataset is not None:
            size = batch_size or run.layout.global_batch_size
            iterators.append(TimedIterator(_part_iterator(run, dataset, consumed_samples, size)))
        else:
            iterators.append(None)
    return iterators


def _part_iterator(
    run: Run, dataset: SampleDataset, consumed_samples: int, batch_size: int | BatchSizeAt
) -> Iterator[Mapping[str, torch.Tensor]]:
    training = run.config.training
    source = None
    if parallel_state.get_tensor_model_parallel_rank() == 0:
        source = batches(
            dataset,
            micro_batch_size=training.micro_batch_size,
            data_parallel_rank=parallel_state.get_data_parallel_rank(),
            data_parallel_size=run.layout.data_parallel_size,
            global_batch_size=batch_size,
            consumed_samples=consumed_samples,
            num_workers=run.config.data.num_workers,
            dataloader_type=run.config.data.dataloader_type,
            seed=training.seed,
        )
    return TensorParallelBatches(
        source,
        group=parallel_state.get_tensor_model_parallel_group(),
        micro_batch_size=training.micro_batch_size,
        seq_length=training.seq_length,
        has_document_starts=run.config.data.reset_attention_mask,
        device=torch.device(torch.cuda.current_device()),
    )


def gradients(
    run: Run,
    trained: Trained,
    forward_backward: ForwardBackward,
    iterators: Sequence[Iterator[Mapping[str, torch.Tensor]] | None],
    *,
    batch_size: int | None = None,
) -> list[dict[str, torch.Tensor]]:
    """Forward and backward of one step; gradients are final in every part's `main_grad`."""
    for part in trained.parts:
        part.zero_grad_buffer()
    trained.optimizer.zero_grad()
    return forward_backward_of_step(
        run, trained, forward_backward, iterators, forward_only=False, batch_size=batch_size
    )


def forward_backward_of_step(
    run: Run,
    trained: Trained,
    forward_backward: ForwardBackward,
    iterators: Sequence[Iterator[Mapping[str, torch.Tensor]] | None],
    *,
    forward_only: bool,
    batch_size: int | None = None,
) -> list[dict[str, torch.Tensor]]:
    """One global batch through the schedule; on the last stage what the loss function logged.

    Without a `batch_size` it is a full batch.
    """
    single = len(trained.parts) == 1
    WATCH.begin(run.boundaries)
    return forward_backward(
        forward_step_func=forward_step,
        data_iterator=iterators[0] if single else list(iterators),
        model=trained.parts[0] if single else list(trained.parts),
        num_microbatches=run.layout.num_microbatches_of(batch_size or run.layout.global_batch_size),
        seq_length=run.config.training.seq_length,
        micro_batch_size=run.config.training.micro_batch_size,
        forward_only=forward_only,
    )


def log_totals(logs: Sequence[Mapping[str, torch.Tensor]]) -> list[float]:
    """(sum of the losses, tokens that count) over microbatches; zeros off the last stage."""
    if not logs:
        return [0.0, 0.0]
    totals: list[float] = torch.stack([log[LOSS] for log in logs]).double().sum(0).tolist()
    return totals


def train_step(
    run: Run,
    trained: Trained,
    forward_backward: ForwardBackward,
    iterators: Sequence[Iterator[Mapping[str, torch.Tensor]] | None],
    *,
    batch_size: int | None = None,
) -> StepResult:
    """One optimizer step over a global batch."""
    batch_size = batch_size or run.layout.global_batch_size
    take_auxiliary_losses(num_microbatches=1)  # of steps that were only measured
    clock = PhaseClock()
    losses = gradients(run, trained, forward_backward, iterators, batch_size=batch_size)
    clock.mark()
    is_updated, grad_norm, num_zeros = trained.optimizer.step()
    clock.mark()
    if run.config.training.check_for_nan_in_loss_and_grad and not run.config.training.fp16:
        check_finite(trained, grad_norm, what="gradient norm")
    if is_updated:
        trained.scheduler.step(increment=batch_size)
    loss_sum, num_loss_tokens = log_totals(losses)
    forward_backward_seconds, optimizer_seconds = clock.seconds()
    return StepResult(
        loss_sum=loss_sum,
        num_loss_tokens=num_loss_tokens,
        grad_norm=None if grad_norm is None else float(grad_norm),
        is_skipped=not is_updated,
        num_zeros_in_grad=None if num_zeros is None else int(num_zeros),
        forward_backward_seconds=forward_backward_seconds,
        optimizer_seconds=optimizer_seconds,
        auxiliary_losses=take_auxiliary_losses(num_microbatches=run.layout.num_microbatches_of(batch_size)),
        data_wait_seconds=sum(each.take_seconds() for each in iterators if isinstance(each, TimedIterator)),
    )
