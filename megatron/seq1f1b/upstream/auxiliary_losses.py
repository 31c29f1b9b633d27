"""Load-balancing losses of whole sequences, from routers that see one chunk at a time.

The loss of a layer is E/(K T^2) sum_e n_e P_e over its E experts, K of which each of T tokens goes to: n_e
tokens went to expert e, and P_e is the sum of the router's probabilities for it (Switch Transformer,
arXiv 2101.03961, equation 4; moe_utils.py). It is a product of sums over all tokens, so the losses of
chunks do not add up to that of the sequence. But the counts n_e have no gradient, and a stage runs
its first backward after its last forward of a microbatch. Here forwards write the counts of their
chunk, and backwards give each probability the gradient that n_e of the whole microbatch implies.

What a router sends back is weighted when its backward runs. Megatron-Core keeps one weight for all
microbatches (`MoEAuxLossAutoScaler`), which forward sets; with uneven chunks it must be set for each
backward. That alone makes the z-loss, a mean over tokens, that of the sequence.

Where losses are sums over tokens (`calculate_per_token_loss`), routers multiply theirs by the tokens that
they see, and Megatron-Core 0.16.1 divides by those of all tensor-parallel ranks: 1/TP of the loss is left.
The weight makes it whole here; Megatron-Core's own schedules are refused (`config/upstream_schedules.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer.moe.moe_utils import (
    MoEAuxLossAutoScaler,
    compute_routing_scores_for_aux_loss,
    get_moe_layer_wise_logging_tracker,
    save_to_aux_losses_tracker,
)
from megatron.core.transformer.moe.router import TopKRouter

from megatron.seq1f1b.chunk import Chunk, UnitLike
from megatron.seq1f1b.errors import ConfigurationError

_NAMES = {"aux_loss": "load_balancing_loss", "seq_aux_loss": "seq_load_balancing_loss"}
"""Kinds of losses that are made whole here, and their names in Megatron-Core's tracker."""

LOGGED = (*_NAMES.values(), "z_loss")
"""Names in Megatron-Core's tracker of all the losses that are served."""

Routing = tuple[torch.Tensor, torch.Tensor]
"""Probabilities and choices, "tokens experts"."""


class _Seen(NamedTuple):
    """What a router saw of one chunk, over all tensor-parallel ranks; by sequence where the loss is."""

    counts: torch.Tensor
    probabilities: torch.Tensor
    num_tokens: int


class _Balance:
    """One loss of one router over one microbatch."""

    def __init__(self, router: TopKRouter, kind: str, num_chunks: int) -> None:
        self._router, self._kind, self._num_chunks = router, kind, num_chunks
        self._coefficient = router.get_aux_loss_coeff(kind)
        self._chunks: dict[int, _Seen] = {}
        self._num_rows = 1

    def see(self, chunk: Chunk, choices: torch.Tensor, scores: torch.Tensor, num_sequences: int) -> None:
        """Note what a chunk's tokens, sequence after sequence, chose; a recomputed forward notes the same."""
        self._num_rows = num_sequences if self._kind == "seq_aux_loss" else 1
        counts, probabilities = (
            rows.view(-1, self._num_rows, rows.shape[-1]).sum(0).to(scores.dtype)
            for rows in (choices, scores.detach())
        )
        group = self._router.tp_cp_group
        if group.size() > 1:
            dist.all_reduce(counts, group=group)
            dist.all_reduce(probabilities, group=group)
        num_tokens = len(scores) * group.size() // self._num_rows
        self._chunks[chunk.index] = _Seen(counts, probabilities, num_tokens)

    def gradient(self, weight: torch.Tensor, *, is_per_token: bool) -> torch.Tensor:
        """Of the loss by the probability of every expert, "rows experts", a row being a sequence or all."""
        assert len(self._chunks) == self._num_chunks, "forwards of all chunks come before a backward"
        if is_per_token:
            weight = weight * self._num_tokens()
        return weight * self._coefficient * self._factor() * self._counts()

    def log(self) -> None:
        """Add the loss to Megatron-Core's tracker, which adds it up over `tp_cp_group`."""
        probabilities = sum(seen.probabilities for seen in self._chunks.values())
        group = self._router.tp_cp_group
        save_to_aux_losses_tracker(
            _NAMES[self._kind],
            self._factor() * (self._counts() * probabilities).sum() / group.size(),
            self._router.layer_number,
            self._router.config.num_layers,
            reduce_group=group,
        )

    def _counts(self) -> torch.Tensor:
        counts: torch.Tensor = sum(seen.counts for seen in self._chunks.values())  # type: ignore[assignment]
        return counts

    def _num_tokens(self) -> int:
        return sum(seen.num_tokens for seen in self._chunks.values())

    def _factor(self) -> float:
        experts, topk = self._router.config.num_moe_experts, self._router.topk
        return float(experts / (topk * self._num_tokens() ** 2 * self._num_rows))


class AuxiliaryLosses:
    """The auxiliary losses of the model parts of one pipeline rank, for one step.

    Args:
        parts: whose routers to serve.
        chunks: of every sequence.
        num_microbatches: m; losses are means over microbatches.
    """

    def __init__(
        self, parts: Sequence[torch.nn.Module], chunks: Sequence[Chunk], *, num_microbatches: int
    ) -> None:
        self._routers = [
            module for part in parts for module in part.modules() if isinstance(module, TopKRouter)
        ]
        self._chunks = chunks
        self._num_microbatches = num_microbatches
        self._unit: UnitLike | None = None
        self._weight = torch.ones(1)
        self._balances: dict[tuple[int, int], dict[tuple[TopKRouter, str], _Balance]] = {}
        for router in self._routers if len(chunks) > 1 else []:
            _refuse(router)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, routers balance whole sequences."""
        chunked = self._routers if len(self._chunks) > 1 else []
        balanced = [router for router in chunked if router.is_aux_loss_enabled()]
        for router in chunked:
            router.apply_z_loss = partial(self._apply_z_loss, router, router.apply_z_loss)
        for router in balanced:
            router.routing = partial(self._route, router, router.routing)
            router.is_aux_loss_enabled = lambda: False
        try:
            yield
        finally:
            for router in balanced:
                del router.routing, router.is_aux_loss_enabled
            for router in chunked:
                del router.apply_z_loss

    def enter(self, unit: UnitLike) -> None:
        """An action on `unit` begins.

        Known by this object and not by the thread: on CUDA backward, and forwards that it
        recomputes, run in autograd's own.
        """
        self._unit = unit

    def enter_backward(self, unit: UnitLike) -> None:
        """A backward of `unit` begins: weigh what its routers send back by the chunk's share."""
        self.enter(unit)
        if not self._routers:
            return
        config, chunk = self._routers[0].config, self._chunks[unit.chunk]
        weight = torch.ones(1, device=self._routers[0].weight.device)
        if config.grad_scale_func is not None:
            weight = config.grad_scale_func(weight)
        if config.calculate_per_token_loss:
            share = self._routers[0].tp_cp_group.size()
        else:
            weight = weight / self._num_microbatches
            share = chunk.length / self._chunks[-1].stop
        self._weight = weight
        MoEAuxLossAutoScaler.set_loss_scale(weight * share)

    def release(self, unit: UnitLike) -> None:
        """The unit's microbatch is done on its virtual stage: log its losses, forget its counts."""
        for balance in self._balances.pop((unit.virtual_stage, unit.microbatch), {}).values():
            balance.log()

    def _route(
        self,
        router: TopKRouter,
        route: Callable[..., Routing],
        logits: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
    ) -> Routing:
        """Stands in for a router's `routing`; logits are "tokens batch experts"."""
        probabilities, choices = route(logits, padding_mask=padding_mask)
        if padding_mask is not None:
            raise ConfigurationError(
                "chunked schedules do not serve a padding mask in auxiliary losses; use the loss mask alone"
            )
        assert self._unit is not None
        balanced_choices, scores = compute_routing_scores_for_aux_loss(
            logits.flatten(0, 1), router.topk, router.score_function, fused=router.config.moe_router_fusion
        )
        losses = []
        for kind in _NAMES:
            if type(router).get_aux_loss_coeff(router, kind) > 0:
                balance = self._balance(router, kind)
                balance.see(self._chunks[self._unit.chunk], balanced_choices, scores, logits.shape[1])
                losses.append(balance)
        if torch.is_grad_enabled():
            probabilities = _Balanced.apply(probabilities, scores, losses, self)
        return probabilities, choices

    def _apply_z_loss(
        self,
        router: TopKRouter,
        apply: Callable[..., torch.Tensor],
        logits: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Stands in for a router's `apply_z_loss`, which logs the mean over the tokens it is given."""
        assert self._unit is not None
        tracker, layer = get_moe_layer_wise_logging_tracker(), router.layer_number - 1
        before = tracker["z_loss"]["values"][layer].clone() if "z_loss" in tracker else 0.0
        result = apply(logits, padding_mask=padding_mask)
        if "z_loss" in tracker:
            share = self._chunks[self._unit.chunk].length / self._chunks[-1].stop
            values = tracker["z_loss"]["values"]
            values[layer] = before + (values[layer] - before) * share
        return result

    def _balance(self, router: TopKRouter, kind: str) -> _Balance:
        assert self._unit is not None
        of_microbatch = self._balances.setdefault((self._unit.virtual_stage, self._unit.microbatch), {})
        return of_microbatch.setdefault((router, kind), _Balance(router, kind, len(self._chunks)))

    def gradient(self, losses: Sequence[_Balance], scores: torch.Tensor) -> torch.Tensor:
        """Of the losses by the scores, "tokens experts"."""
        is_per_token = bool(self._routers[0].config.calculate_per_token_loss)
        total = torch.zeros_like(scores)
        for balance in losses:
            rows = balance.gradient(self._weight, is_per_token=is_per_token)
            total.view(-1, *rows.shape).add_(rows)
        return total


class _Balanced(torch.autograd.Function):
    """Passes probabilities on; backward adds the losses' gradient to the scores they are of."""

    @staticmethod
    def forward(
        ctx: Any,
        probabilities: torch.Tensor,
        scores: torch.Tensor,
        losses: Sequence[_Balance],
        owner: AuxiliaryLosses,
    ) -> torch.Tensor:
        ctx.losses, ctx.owner = losses, owner
        ctx.like = torch.empty_like(scores, device="meta")
        return probabilities.view_as(probabilities)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scores = torch.empty_like(ctx.like, device=grad_output.device)
        return grad_output, ctx.owner.gradient(ctx.losses, scores), None, None


def take_auxiliary_losses(*, num_microbatches: int) -> dict[str, list[float]]:
    """What this process adds to the mean of each loss over the global batch, by layer; then forgets.

    Added up over all processes they are what Megatron-Core's `track_moe_metrics` shows, but for the z-loss,
    of which that shows one tensor- and data-parallel rank's. Losses with a `reduce_group` are parts of a sum
    over the tensor-parallel ranks, the others a rank's own mean.
    """
    tracker = get_moe_layer_wise_logging_tracker()
    replicas = parallel_state.get_data_parallel_world_size()
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    taken = {}
    for name, entry in tracker.items():
        values = entry["values"]
        copies = replicas * (1 if entry["reduce_group"] is not None else ranks)
        taken[name] = (values.double() / (num_microbatches * copies)).tolist()
    tracker.clear()
    return taken


def _refuse(router: TopKRouter) -> None:
    """What looks at all tokens of a forward at once, and would depend on the chunks.

    Raises:
        ConfigurationError: names it.
    """
    config = router.config
    refusals = {
        "moe_expert_capacity_factor": config.moe_expert_capacity_factor is not None,
        "sinkhorn routing": router.routing_type == "sinkhorn",
        "global_aux_loss": router.get_aux_loss_coeff("global_aux_loss") > 0,
    }
    for what, is_asked in refusals.items():
        if is_asked:
            raise ConfigurationError(
                f"chunked schedules do not serve {what}: it looks at all tokens of a forward, so results "
                "would depend on the chunks; use aux_loss or seq_aux_loss, and no capacity"
            )
