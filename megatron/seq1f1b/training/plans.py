"""The plan that a run executes: made by name, or read from a file."""

from __future__ import annotations

from pathlib import Path

from megatron.seq1f1b.config import Config, Layout
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.schedule import Plan, make_plan, plan_from_csv

_ANY_VIRTUAL_STAGES = "seq1f1b-interleaved"


def read_plan(config: Config, layout: Layout) -> Plan | None:
    """The plan of `--pipeline-schedule file.csv`, None for a schedule that has a name.

    Raises:
        ConfigurationError: a file that cannot be read, or a plan for another layout.
        PlanError: a plan that cannot run, with the line and the action.
    """
    if not layout.uses_plan_file:
        return None
    try:
        text = Path(layout.schedule).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--pipeline-schedule {layout.schedule} cannot be read: {error}") from error
    plan = plan_from_csv(text, name=layout.schedule)
    _check_counts(plan, config, layout)
    return plan


def plan_of(
    plan: Plan | None, config: Config, layout: Layout, *, num_microbatches: int, forward_only: bool
) -> Plan:
    """A compute plan for so many microbatches; evaluations of a plan file run the generic order."""
    if plan is not None and not forward_only:
        if num_microbatches != plan.num_microbatches:
            raise ConfigurationError(
                f"{plan.name} is a plan for {plan.num_microbatches} microbatches, not {num_microbatches}"
            )
        return plan
    return make_plan(
        layout.schedule if plan is None else _ANY_VIRTUAL_STAGES,
        stages=config.parallel.pipeline_model_parallel_size,
        microbatches=num_microbatches,
        chunks=config.schedule.pipe_sp_splits,
        virtual_stages=layout.num_virtual_stages,
        forward_only=forward_only,
        max_pending_weight_grads=config.schedule.zero_bubble_max_pending_weight_grads,
    )


def _check_counts(plan: Plan, config: Config, layout: Layout) -> None:
    """The file's counts are those of the run."""
    if plan.forward_only:
        raise ConfigurationError(f"{plan.name} has no backward, so nothing would be trained by it")
    wanted = {
        "pipeline stages (--pipeline-model-parallel-size)": (
            plan.num_stages,
            config.parallel.pipeline_model_parallel_size,
        ),
        "microbatches (--global-batch-size / --micro-batch-size / data parallelism)": (
            plan.num_microbatches,
            layout.num_microbatches,
        ),
        "chunks (--pipe-sp-splits)": (plan.num_chunks, config.schedule.pipe_sp_splits),
        "virtual stages per stage (--num-virtual-stages-per-pipeline-rank)": (
            plan.num_virtual_stages,
            layout.num_virtual_stages,
        ),
    }
    wrong = [
        f"{in_file} {what} where the run has {in_run}"
        for what, (in_file, in_run) in wanted.items()
        if in_file != in_run
    ]
    if wrong:
        raise ConfigurationError(
            f"--pipeline-schedule {plan.name} is a plan for another run: {'; '.join(wrong)}; change "
            "those flags or the file"
        )
