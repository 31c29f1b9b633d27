"""The harness itself: values come back, failures are told, nothing is left running."""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from tests.harness import DistributedError, RankState, run_distributed


def sum_of_ranks(offset: float) -> torch.Tensor:
    total = torch.full((2,), dist.get_rank() + offset)
    dist.all_reduce(total)
    return total


def refuse_on_rank_one() -> None:
    print(f"hello from rank {dist.get_rank()}")
    if dist.get_rank() == 1:
        raise ValueError("rank one will not")
    dist.barrier()


def exit_on_rank_one() -> None:
    if dist.get_rank() == 1:
        os._exit(7)
    dist.barrier()


def hang_on_rank_zero(pid_folder: str) -> None:
    (Path(pid_folder) / f"{os.getpid()}").touch()
    if dist.get_rank() == 0:
        a_recognisable_place_to_hang()


def a_recognisable_place_to_hang() -> None:
    time.sleep(600)


def environment() -> tuple[int, str, bool, bool]:
    return (
        torch.get_num_threads(),
        os.environ["RANK"],
        torch.cuda.is_available(),
        "megatron.core.models.gpt" in sys.modules,
    )


def warn() -> None:
    warnings.warn("this is deprecated", DeprecationWarning, stacklevel=1)


def test_each_rank_returns_its_value() -> None:
    results = run_distributed(sum_of_ranks, 3, 1.0)
    assert [result.tolist() for result in results] == [[6.0, 6.0]] * 3


def test_one_process_is_a_group_too() -> None:
    assert run_distributed(sum_of_ranks, 1, 1.0)[0].tolist() == [1.0, 1.0]


def test_processes_have_one_thread_no_gpu_and_megatron_core_already_imported() -> None:
    assert run_distributed(environment, 2) == [(1, "0", False, True), (1, "1", False, True)]


def test_an_exception_names_its_rank_and_is_the_cause() -> None:
    with pytest.raises(DistributedError, match="rank 1 raised") as failure:
        run_distributed(refuse_on_rank_one, 2)
    assert isinstance(failure.value.__cause__, ValueError)
    assert "in refuse_on_rank_one" in str(failure.value)
    assert "hello from rank 1" in str(failure.value)


def test_a_dead_rank_is_reported_with_its_exit_code() -> None:
    with pytest.raises(DistributedError, match="rank 1 died with exit code 7") as failure:
        run_distributed(exit_on_rank_one, 2)
    assert failure.value.reports[1].state is RankState.DIED


def test_a_hang_ends_in_time_shows_the_stack_and_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(DistributedError, match="did not finish within 5 s") as failure:
        run_distributed(hang_on_rank_zero, 2, str(tmp_path), timeout_seconds=5)
    assert "a_recognisable_place_to_hang" in str(failure.value)
    assert len(list(tmp_path.iterdir())) == 2
    assert not any(psutil.pid_exists(int(file.name)) for file in tmp_path.iterdir())


def test_warnings_are_errors_in_the_ranks_where_they_are_in_the_test() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DistributedError, match="this is deprecated"):
            run_distributed(warn, 1)


def test_a_value_that_cannot_be_sent_is_an_error() -> None:
    with pytest.raises(DistributedError, match="cannot be sent"):
        run_distributed(return_a_lock, 1)


def return_a_lock() -> object:
    import threading

    return threading.Lock()
