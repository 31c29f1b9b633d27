#!/usr/bin/env python3
"""Pretrain a GPT: `torchrun --nproc_per_node N pretrain_gpt.py ...`, or `python` for one process.

What cannot run is refused here, before processes join: one message from rank 0, exit status 2
from every process.
"""

from __future__ import annotations

import os
import sys
import time

from megatron.seq1f1b.config import Config, idle_notes, notes_on, parse_arguments, with_config_files
from megatron.seq1f1b.errors import (
    AgreementError,
    BackendError,
    DamageError,
    NotFiniteError,
    ParityError,
    SaveError,
    Seq1F1BError,
)
from megatron.seq1f1b.training.checkpoint.start import find_start
from megatron.seq1f1b.training.prepare import prepare

_SECONDS_FOR_RANK_0 = 3.0
_INTERRUPTED = 130
"""What shells make of a program that Ctrl-C ended."""


def main(arguments: list[str]) -> int:
    """Parse, build, train; returns the exit status."""
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        arguments = with_config_files(arguments)
        config = parse_arguments(arguments)
        if config.dry_run.dry_run:
            return _dry_run(config) if is_first else 0
        run = prepare(config, world_size=int(os.environ.get("WORLD_SIZE", "1")))
        start = find_start(run)
    except Seq1F1BError as error:
        return _said_once(error, status=2)
    if is_first:
        notes = [*notes_on(arguments), *idle_notes(config, train_iters=run.layout.train_iters)]
        print("\n".join([*notes, "loading torch and Megatron-Core"]), flush=True)
    from megatron.seq1f1b.upstream import prepare_megatron_core

    try:
        prepare_megatron_core()
        from megatron.seq1f1b.training.pretrain import pretrain

        pretrain(run, start)
    except (AgreementError, BackendError, DamageError) as error:
        return _said_once(error, status=2)
    except (ParityError, NotFiniteError, SaveError) as error:
        return _said_once(error, status=1)
    except Seq1F1BError as error:
        print(f"pretrain_gpt.py: rank {os.environ.get('RANK', '0')}: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        if is_first:
            said = "interrupted; with --exit-signal-handler a run saves and ends after the step instead"
            print(f"pretrain_gpt.py: {said}", file=sys.stderr, flush=True)
        return _INTERRUPTED
    return 0


def _said_once(error: Seq1F1BError, *, status: int) -> int:
    """Say on rank 0 what every process found, and whether it had begun to work; returns the status."""
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        failed = "" if status == 2 else "failed: "
        print(f"pretrain_gpt.py: {failed}{error}", file=sys.stderr, flush=True)
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun ends all processes once one has failed, and rank 0 must have spoken by then.
        time.sleep(_SECONDS_FOR_RANK_0)
        if os.environ.get("GROUP_RANK", "0") != "0" and os.environ.get("LOCAL_RANK") == "0":
            # Perhaps it is found on this node alone, and nobody else will say it.
            print(f"pretrain_gpt.py: rank {rank}: {error}", file=sys.stderr, flush=True)
    return status


def _dry_run(config: Config) -> int:
    """Say what the run would need."""
    from megatron.seq1f1b.training.dry_run import dry_run

    dry_run(config, os.environ)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
