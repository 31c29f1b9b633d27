"""Runs a function in several CPU processes joined by gloo, and returns what each rank returned.

    from tests.harness import run_distributed

    def sum_of_ranks() -> float:                      # at module level: processes import it by name
        total = torch.tensor(float(dist.get_rank()))
        dist.all_reduce(total)
        return total.item()

    def test_all_reduce_adds_over_ranks() -> None:
        assert run_distributed(sum_of_ranks, 4) == [6.0, 6.0, 6.0, 6.0]

Why not `torch.multiprocessing.spawn`: importing torch and Megatron-Core takes seconds per process.
Here a fork server imports both once, and each test's processes are forks of it.
"""

from tests.harness.launcher import DistributedError, run_distributed
from tests.harness.report import RankReport, RankState

__all__ = ["DistributedError", "RankReport", "RankState", "run_distributed"]
