"""Where this process stands in Megatron-Core's parallel groups."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection as Groups

from megatron.seq1f1b.errors import ConfigurationError

__all__ = ["Groups", "groups_of_step", "pipeline_rank", "timeout_of", "use_virtual_stages"]

_WANTED = ("tp", "cp", "embd", "pos_embd", "pp", "dp_cp")


def groups_of_step(p2p_communicator: object, pg_collection: object) -> Groups:
    """The groups that a schedule function works with: the caller's, or Megatron-Core's global ones.

    As Megatron-Core's functions for pipelines it takes both arguments or neither; without a pipeline,
    the collection alone. Messages travel on channels of our own: of the communicator only the group
    is used.

    Raises:
        ConfigurationError: one without the other, or a collection that lacks a group.
    """
    if pg_collection is None:
        if p2p_communicator is not None:
            raise ConfigurationError(
                "p2p_communicator was given without pg_collection; give both or neither, as to "
                "Megatron-Core's own schedules"
            )
        return _global_groups()
    missing = [name for name in _WANTED if not hasattr(pg_collection, name)]
    if missing:
        raise ConfigurationError(
            f"pg_collection lacks {', '.join(missing)}; set them, to None where a process is in no such group"
        )
    assert isinstance(pg_collection, Groups)
    if p2p_communicator is None:
        if pg_collection.pp.size() > 1:
            raise ConfigurationError(
                "pg_collection was given without p2p_communicator; give both or neither, as to "
                "Megatron-Core's own schedules"
            )
    elif getattr(p2p_communicator, "pp_group", None) is not pg_collection.pp:
        raise ConfigurationError(
            "p2p_communicator.pp_group is another group than pg_collection.pp; make both from one group"
        )
    return pg_collection


def _global_groups() -> Groups:
    """As Megatron-Core's schedule functions collect them (schedules.py)."""
    groups = Groups()
    groups.tp = parallel_state.get_tensor_model_parallel_group()
    groups.cp = parallel_state.get_context_parallel_group()
    groups.embd = parallel_state.get_embedding_group(check_initialized=False)
    groups.pos_embd = parallel_state.get_position_embedding_group(check_initialized=False)
    groups.pp = parallel_state.get_pipeline_model_parallel_group()
    groups.dp_cp = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return groups


def pipeline_rank() -> int:
    """This process's pipeline stage."""
    return parallel_state.get_pipeline_model_parallel_rank()


def timeout_of(group: dist.ProcessGroup) -> timedelta:
    """How long a process waits for another in a group; new groups get torch's half an hour."""
    device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
    timeout: timedelta = group._get_backend(device).options._timeout
    return timeout


def use_virtual_stages(num_virtual_stages: int) -> None:
    """Tell Megatron-Core how many model parts a rank has, for models of either kind in one process."""
    size = num_virtual_stages if num_virtual_stages > 1 else None
    parallel_state.set_virtual_pipeline_model_parallel_world_size(size)
