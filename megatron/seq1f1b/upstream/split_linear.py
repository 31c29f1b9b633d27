"""Splits the backward of Megatron-Core's linear layers: input gradient now, weight gradient later.

Where a plan runs I and W apart, the weights of column- and row-parallel linear layers are taken
out of autograd's graph: backward computes the input's gradient (with its all-reduce or
reduce-scatter) and leaves the weight's product, with its two operands, in a queue. Running it hands
the gradient to autograd at the weight itself, so that the hooks of Megatron-Core's data-parallel
wrapper see it as ever. Weights of other modules (norms, embedding) stay in the graph: their
gradients cost little and come with I.

Source: `LinearWithGradAccumulationAndAsyncCommunication` in tensor_parallel/layers.py, whose
arithmetic and order of summation this keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import (
    _gather_along_first_dim,
    _reduce,
    _reduce_scatter_along_first_dim,
)

from megatron.seq1f1b.errors import ConfigurationError

Gradients = list[tuple[torch.nn.Parameter, torch.Tensor]]
"""A layer's parameters with what this unit adds to their gradients."""


class WeightGradients:
    """Products that backward left for later, by the unit whose backward it was."""

    def __init__(self) -> None:
        self._pending: dict[Hashable, list[Callable[[], Gradients]]] = {}
        self._current: list[Callable[[], Gradients]] | None = None

    @contextmanager
    def collect(self, unit: Hashable) -> Iterator[None]:
        """Within, backward leaves its products for `unit`.

        The list hangs on this object and not on the thread: on CUDA backward has its own.
        """
        assert unit not in self._pending, f"{unit} has left its weight gradients already"
        self._current = self._pending[unit] = []
        try:
            yield
        finally:
            self._current = None

    def add(self, product: Callable[[], Gradients]) -> None:
        """Leave a product for the unit whose backward runs."""
        assert self._current is not None, "a split linear layer ran backward outside of an action"
        self._current.append(product)

    @torch.no_grad()
    def run(self, unit: Hashable, *, is_last: bool) -> None:
        """Compute what `unit` left and add it to the parameters' gradients.

        Only the last unit of a step goes through the data-parallel wrapper's hooks, which count
        a gradient as complete when they see it.
        """
        products = self._pending.pop(unit)
        while products:
            # Operands and gradient of a product are gone before the next one is computed.
            _add(products.pop(0)(), is_last=is_last)

    def units(self) -> Sequence[Hashable]:
        """Units whose products have not been run."""
        return list(self._pending)


def _add(gradients: Gradients, *, is_last: bool) -> None:
    for parameter, gradient in gradients:
        if is_last or not hasattr(parameter, "main_grad"):
            torch.autograd.backward(parameter, gradient)
        else:
            parameter.main_grad.add_(gradient)


_IN_GRAPH = "keeps_weight_in_graph"


def keep_in_graph(layer: ColumnParallelLinear | RowParallelLinear) -> None:
    """Never split this layer: its weight's gradient comes with its input's, and its operands do not wait."""
    setattr(layer, _IN_GRAPH, True)


@contextmanager
def split_backward(parts: Sequence[torch.nn.Module], queue: WeightGradients) -> Iterator[None]:
    """Within, the linear layers of the model parts leave their weight gradients in `queue`.

    Raises:
        ConfigurationError: an option that computes weight gradients elsewhere.
    """
    layers = [
        module
        for part in parts
        for module in part.modules()
        if isinstance(module, ColumnParallelLinear | RowParallelLinear)
        and not getattr(module, _IN_GRAPH, False)
    ]
    for layer in layers:
        if layer.config.gradient_accumulation_fusion or layer.config.defer_embedding_wgrad_compute:
            raise ConfigurationError(
                "a zero-bubble schedule computes weight gradients itself; turn off "
                "gradient_accumulation_fusion and defer_embedding_wgrad_compute"
            )
        layer._forward_impl = partial(_split_linear, queue)
    try:
        yield
    finally:
        for layer in layers:
            del layer._forward_impl


def _split_linear(
    queue: WeightGradients,
    input: torch.Tensor,  # noqa: A002 - upstream calls by keyword
    weight: torch.nn.Parameter,
    bias: torch.nn.Parameter | None,
    *,
    allreduce_dgrad: bool,
    sequence_parallel: bool,
    tp_group: dist.ProcessGroup | None,
    **unused: object,
) -> torch.Tensor:
    """Stands in for a linear layer's `_forward_impl`: [sequence, batch, in] to [..., out]."""
    layer = _Layer(queue, weight, bias, allreduce_dgrad, sequence_parallel, tp_group)
    if not weight.requires_grad:
        raise ConfigurationError("a zero-bubble schedule cannot train a model with frozen weights")
    return _SplitLinear.apply(input, layer)


class _Layer:
    """A linear layer as its backward needs it; hides the parameters from autograd's graph."""

    def __init__(
        self,
        queue: WeightGradients,
        weight: torch.nn.Parameter,
        bias: torch.nn.Parameter | None,
        has_all_reduce: bool,
        is_sequence_parallel: bool,
        group: dist.ProcessGroup | None,
    ) -> None:
        self.queue, self.weight, self.bias = queue, weight, bias
        self.has_all_reduce, self.is_sequence_parallel = has_all_reduce, is_sequence_parallel
        self.group = group

    def whole(self, shard: torch.Tensor) -> torch.Tensor:
        """The layer's input over all tensor-parallel ranks."""
        return _gather_along_first_dim(shard, self.group) if self.is_sequence_parallel else shard

    def weight_gradients(self, shard: torch.Tensor, output_grad: torch.Tensor) -> Gradients:
        """What one unit adds to the gradients of weight and bias."""
        inputs = self.whole(shard).flatten(0, -2)
        rows = output_grad.flatten(0, -2)
        gradients = [(self.weight, rows.t().matmul(inputs))]
        if self.bias is not None:
            gradients.append((self.bias, rows.sum(dim=0)))
        return gradients


class _SplitLinear(torch.autograd.Function):
    """x W^T + b, whose backward returns the input's gradient alone."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, shard: torch.Tensor, layer: _Layer) -> torch.Tensor:
        ctx.save_for_backward(shard)
        ctx.layer = layer  # type: ignore[attr-defined]
        output = torch.matmul(layer.whole(shard), layer.weight.t())
        return output if layer.bias is None else output + layer.bias

    @staticmethod
    def backward(
        ctx: torch.autograd.function.BackwardCFunction, output_grad: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """The gradient of the input's shard, reduced over tensor-parallel ranks; the weight's is left."""
        (shard,) = ctx.saved_tensors
        layer: _Layer = ctx.layer  # type: ignore[attr-defined]
        # Detached, the operand does not hold the graph of the layers before it until W has run.
        layer.queue.add(partial(layer.weight_gradients, shard.detach(), output_grad.detach()))
        input_grad = output_grad.matmul(layer.weight)
        if layer.is_sequence_parallel:
            input_grad = _reduce_scatter_along_first_dim(input_grad, layer.group)
        elif layer.has_all_reduce:
            input_grad = _reduce(input_grad, layer.group)
        return input_grad, None
