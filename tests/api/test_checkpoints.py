"""A script's own distributed checkpoints pass between the stock schedule and the chunked one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from megatron.core import dist_checkpointing
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

from megatron.seq1f1b.upstream.adam import choose_adam
from tests.api import foreign
from tests.api.foreign import Script, assert_equal, build, processes, step_of
from tests.harness import run_distributed

SCRIPT = Script(
    pipeline=2,
    data_parallel={"use_distributed_optimizer": True, "overlap_grad_reduce": True},
)


class Training:
    """A script's model, optimizer and schedule."""

    def __init__(self, *, is_chunked: bool) -> None:
        self.parts = build(SCRIPT, is_chunked=is_chunked)
        self.parts[0].config.no_sync_func = self.parts[0].no_sync
        self.function: Any = foreign.chunked_function(SCRIPT) if is_chunked else get_forward_backward_func()
        config = OptimizerConfig(optimizer="adam", lr=1e-2, adam_eps=1e-3, use_distributed_optimizer=True)
        self.optimizer = get_megatron_optimizer(config, self.parts)

    def steps(self, number: int) -> list[Any]:
        """What so many optimizer steps log."""
        logs = []
        for _ in range(number):
            self.optimizer.zero_grad()
            logs.append(step_of(self.function, self.parts, SCRIPT))
            self.optimizer.step()
        return logs

    def state(self, *, is_loading: bool) -> dict[str, Any]:
        model = self.parts[0].module.sharded_state_dict()
        optimizer = self.optimizer.sharded_state_dict(
            model, is_loading=is_loading, metadata={"distrib_optim_sharding_type": "fully_reshardable"}
        )
        return {"model": model, "optimizer": optimizer}


def save_and_load(folder: str) -> None:
    choose_adam()
    with processes(SCRIPT):
        for saves_chunked in (False, True):
            path = Path(folder) / str(saves_chunked)
            path.mkdir(exist_ok=True)
            saving = Training(is_chunked=saves_chunked)
            saving.steps(2)
            dist_checkpointing.save(saving.state(is_loading=False), str(path))
            expected = saving.steps(2)

            loading = Training(is_chunked=not saves_chunked)
            loaded = dist_checkpointing.load(loading.state(is_loading=True), str(path))
            loading.parts[0].module.load_state_dict(loaded["model"])
            loading.optimizer.load_state_dict(loaded["optimizer"])
            assert_equal(loading.steps(2), expected)


@pytest.mark.slow
def test_what_one_schedule_saves_the_other_continues(tmp_path: Path) -> None:
    run_distributed(save_and_load, 2, str(tmp_path))
