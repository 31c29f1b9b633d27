"""Which activations are recomputed in backward, as Megatron-Core's configuration wants it said."""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron.seq1f1b.config.sections.training import TrainingOptions
from megatron.seq1f1b.errors import ConfigurationError

_MODULES = ("core_attn", "mlp", "moe", "shared_experts", "layernorm")
"""Parts of a layer that Megatron-Core 0.16.1 can recompute without Transformer Engine."""


@dataclass(frozen=True, kw_only=True)
class Recompute:
    """The four options, resolved."""

    granularity: str | None = None
    method: str | None = None
    num_layers: int | None = None
    modules: tuple[str, ...] = ()


def recompute_of(training: TrainingOptions, *, layers_of_virtual_stages: tuple[int, ...]) -> Recompute:
    """What is recomputed.

    Raises:
        ConfigurationError: options that contradict each other.
    """
    granularity, method, count, modules = (
        training.recompute_granularity,
        training.recompute_method,
        training.recompute_num_layers,
        tuple(training.recompute_modules),
    )
    if granularity != "full" and (method is not None or count is not None):
        raise ConfigurationError(
            "--recompute-method and --recompute-num-layers are of whole layers; give "
            "--recompute-granularity full with them"
        )
    if granularity != "selective" and modules:
        raise ConfigurationError("--recompute-modules needs --recompute-granularity selective")
    if granularity is None:
        return Recompute()
    if granularity == "selective":
        return Recompute(granularity=granularity, modules=_known(modules or _MODULES[:1]))
    count = count or 1
    if count > max(layers_of_virtual_stages):
        raise ConfigurationError(
            f"--recompute-num-layers {count} is more than the {max(layers_of_virtual_stages)} layers of "
            "a virtual stage; use at most that"
        )
    method = method or "uniform"
    if method == "uniform":
        _check_groups(count, layers_of_virtual_stages)
    return Recompute(granularity=granularity, method=method, num_layers=count)


def _check_groups(count: int, layers_of_virtual_stages: tuple[int, ...]) -> None:
    """Megatron-Core runs every group of layers in full, the last one, too."""
    if any(layers % count for layers in layers_of_virtual_stages):
        common = math.gcd(*layers_of_virtual_stages)
        possible = [str(number) for number in range(1, common + 1) if common % number == 0]
        raise ConfigurationError(
            f"--recompute-num-layers {count} does not divide the layers of every virtual stage "
            f"({', '.join(map(str, sorted(set(layers_of_virtual_stages))))}), which --recompute-method "
            f"uniform needs; use {' or '.join(possible)}, or --recompute-method block"
        )


def _known(modules: tuple[str, ...]) -> tuple[str, ...]:
    for module in modules:
        if module not in _MODULES:
            raise ConfigurationError(
                f"--recompute-modules {module} does not exist here; choose from {', '.join(_MODULES)}"
            )
    return modules
