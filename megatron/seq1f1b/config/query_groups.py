"""How tensor-parallel processes share heads of queries and groups of keys and values.

Each holds whole groups, or where processes outnumber groups, a group together with others: its keys
and values, and an even part of its queries (megatron/core/transformer/attention.py). The weights of
the projection that makes all three are cut evenly whatever groups they are of.
"""

from __future__ import annotations

from megatron.seq1f1b.config.options import Config
from megatron.seq1f1b.errors import ConfigurationError


def are_shared_evenly(*, heads: int, groups: int, head_dim: int, tensor_parallel: int) -> bool:
    """Whether so many processes can share a layer's attention."""
    is_even = heads % tensor_parallel == 0 and _fit(groups, tensor_parallel)
    return is_even and _projection_rows(heads, groups, head_dim) % tensor_parallel == 0


def check_query_groups(config: Config, *, groups: int, head_dim: int) -> None:
    """Refuse groups that cannot be shared.

    Raises:
        ConfigurationError: with the numbers of groups that can.
    """
    heads, tensor_parallel = config.model.num_attention_heads, config.parallel.tensor_model_parallel_size
    if not _fit(groups, tensor_parallel):
        possible = [n for n in range(1, heads + 1) if heads % n == 0 and _fit(n, tensor_parallel)]
        raise ConfigurationError(
            f"--num-query-groups {groups} is neither a multiple nor a divisor of "
            f"--tensor-model-parallel-size {tensor_parallel}; {heads} attention heads can be in "
            f"{', '.join(map(str, possible))} groups, or change --tensor-model-parallel-size"
        )
    if config.model.attention_output_gate and groups < tensor_parallel:
        raise ConfigurationError(
            f"--attention-output-gate needs a group of queries for each process, but --num-query-groups "
            f"{groups} is less than --tensor-model-parallel-size {tensor_parallel}; change one of them"
        )
    rows = _projection_rows(heads, groups, head_dim)
    if rows % tensor_parallel:
        raise ConfigurationError(
            f"the {rows} rows that project queries, keys and values ({heads} heads and 2 x {groups} "
            f"groups of {head_dim} channels) are not divisible by --tensor-model-parallel-size "
            f"{tensor_parallel}; make --kv-channels a multiple of {tensor_parallel // groups}, or use "
            f"--num-query-groups {tensor_parallel}"
        )


def _fit(groups: int, tensor_parallel: int) -> bool:
    return groups % tensor_parallel == 0 or tensor_parallel % groups == 0


def _projection_rows(heads: int, groups: int, head_dim: int) -> int:
    return (heads + 2 * groups) * head_dim
