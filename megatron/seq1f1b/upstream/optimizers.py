"""Makes Megatron-Core's optimizer of a run, mended where its checkpoints would not come back (0.16.1).

Checkpoints tell groups of parameters apart by four of their entries (optimizer.py, line 96). A learning
rate of its own is none of them, so the groups of `decoupled_lr` would be taken for the others; but
`is_decoupled_lr` is one, which nothing sets any more. And SGD gets no function that makes its states
(optimizer/__init__.py, line 402), which saving and loading call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import megatron.core.optimizer as core
import torch
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_standard_config_overrides

from megatron.seq1f1b.upstream.adam import choose_adam, maker_of


def make_optimizer(
    config: OptimizerConfig, parts: Sequence[torch.nn.Module]
) -> tuple[MegatronOptimizer, str]:
    """The optimizer of a rank's model parts, and what it is, for the banner."""
    if config.optimizer == "sgd":
        momentum = f" with momentum {config.sgd_momentum:g}" if config.sgd_momentum else ""
        text = f"{maker_of(core.SGD)} SGD{momentum}"
    else:
        text = f"{choose_adam()} Adam{'W' if config.decoupled_weight_decay else ''}"
    overrides = get_standard_config_overrides(config)
    for override in overrides.values():
        if "max_lr" in override:
            override["is_decoupled_lr"] = True
    optimizer = core.get_megatron_optimizer(config, list(parts), overrides)
    for each in inner_optimizers(optimizer):
        each.init_state_fn = each.init_state_fn or _make_momentum
    return optimizer, text


def inner_optimizers(optimizer: MegatronOptimizer) -> Iterator[MegatronOptimizer]:
    """Those that update parameters: experts on processes of their own have one, too."""
    for each in getattr(optimizer, "chained_optimizers", [optimizer]):
        if not getattr(each, "is_stub_optimizer", False):
            yield each


def _make_momentum(optimizer: torch.optim.Optimizer, config: OptimizerConfig | None = None) -> None:
    """The momentum before the first step: zeros, to which a step adds what it would begin with."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else []:
            if "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
