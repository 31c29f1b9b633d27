"""Flags: the frozen list, one line of help each, the last one counts, unknown ones are refused first."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from megatron.seq1f1b.config import idle_notes, make_parser, notes_on, parse_arguments
from megatron.seq1f1b.config.megatron_flags import REPLACED, WITHOUT_EFFECT
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.schedule import SCHEDULE_NAMES
from tests.config.flags import words

FROZEN = Path(__file__).with_name("flags.txt")


def flags() -> list[str]:
    """Every flag with the values it takes."""
    found = []
    for action in make_parser()._actions:
        takes = "" if action.nargs == 0 else f" {action.metavar or '|'.join(action.choices or ())}"
        found.append(f"{' '.join(action.option_strings)}{takes}")
    return found


def test_the_list_of_flags_is_frozen() -> None:
    """People's launch scripts depend on it: a flag that goes away needs a line of its own."""
    assert "\n".join(flags()) + "\n" == FROZEN.read_text(), f"on purpose? write flags() to {FROZEN.name}"


def test_help_is_grouped_and_one_line_each() -> None:
    text = make_parser().format_help()
    assert "\nModel: the shape of the GPT:\n" in text
    for action in make_parser()._actions:
        assert action.help, f"{action.option_strings} has no help"
        (line,) = (
            line
            for line in text.splitlines()
            if line.strip().replace("[no-]", "").startswith((f"{action.option_strings[0]} ", "-h,"))
            and ("-h," not in line) == (action.option_strings[0] != "-h")
        )
        assert len(line) <= 190
        assert action.help.replace("%%", "%").split(" (default")[0] in line


def test_help_names_every_schedule() -> None:
    (action,) = (each for each in make_parser()._actions if "--pipeline-schedule" in each.option_strings)
    assert set(SCHEDULE_NAMES) <= set(str(action.help).replace(",", "").split())


def test_the_last_of_a_flag_given_twice_counts() -> None:
    config = parse_arguments(words("--seq-length 128 --no-mock-data --seq-length 256 --mock-data"))
    assert config.training.seq_length == 256
    assert config.data.mock_data


def test_defaults_are_the_simplest_case() -> None:
    config = parse_arguments(words())
    assert config.model.hidden_dropout == 0.0
    assert config.training.eval_iters == 0
    assert config.schedule.pipe_sp_strategy == "uniform_comp"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--nmu-layers 3", "there is no flag --nmu-layers; did you mean --num-layers?"),
        ("--num-layers x --sqe-length 3", "there is no flag --sqe-length; did you mean --seq-length?"),
        ("--num-layers x", "--num-layers: invalid int value: 'x'"),
        ("--seq-len 64", "there is no flag --seq-len; did you mean --seq-length?"),
        ("--bf16 7", "'7' belongs to no flag"),
        ("--split -1,2,0", "a value that begins with a minus sign goes behind =, as in --flag=-1,0"),
        ("--recompute-activations", "use --recompute-granularity selective"),
    ],
)
def test_refused_flags(extra: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_arguments(words(extra))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_flags_are_named_together() -> None:
    with pytest.raises(ConfigurationError, match=r"--hidden-size, .*--lr must be given"):
        parse_arguments(["--num-layers", "2"])


def test_megatron_flags_without_effect_are_accepted_and_said() -> None:
    extra = "--use-flash-attn --timing-log-level 2 --no-async-tensor-model-parallel-allreduce"
    assert parse_arguments(words(extra)) == parse_arguments(words())
    notes = notes_on(words(extra))
    assert [note.split()[0] for note in notes] == extra.replace(" 2 ", " ").split()
    assert notes_on(words()) == []


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        ("--rotary-percent 0.5", "--rotary-percent 0.5 changes nothing here: positions are learned"),
        ("--initial-loss-scale 65536 --bf16", "--initial-loss-scale 65536 changes nothing here: losses are"),
        ("--save-interval 5", "--save-interval 5 changes nothing here: nothing is saved without --save"),
        ("--no-manual-gc-eval", "--manual-gc-eval False changes nothing here: Python collects as usual"),
        ("--eval-interval 5", "--eval-interval 5 changes nothing here: --eval-iters is 0"),
        ("--eval-iters 5", "--eval-iters 5 changes nothing here: --eval-interval 1000 is more than the"),
        ("--valid-data-path a b", "--valid-data-path a b changes nothing here: --eval-iters is 0"),
        ("--mock-data --split 98,2,0", "--split 98,2,0 changes nothing here: there is nothing to split"),
        ("--pipe-sp-splits 1 --pipe-sp-strategy average", "--pipe-sp-strategy average changes nothing here"),
        ("--lr-decay-style constant --min-lr 1e-5", "--min-lr 1e-05 changes nothing here: a constant"),
    ],
)
def test_options_that_nothing_reads_are_said(extra: str, note: str) -> None:
    (said,) = idle_notes(parse_arguments(words(extra)), train_iters=4)
    assert said.startswith(note)
    assert idle_notes(parse_arguments(words()), train_iters=4) == []


def test_a_validation_that_is_never_due_is_said_of_samples_too() -> None:
    given = " ".join(words("--eval-iters 5")).replace("--train-iters 4", "--train-samples 32")
    (said,) = idle_notes(parse_arguments(given.split()), train_iters=4)
    assert said.endswith("--eval-interval 1000 is more than the run's 4 steps")


def test_every_flag_is_lower_case_with_dashes() -> None:
    own = [action for action in make_parser()._actions if action.dest != "_without_effect"]
    for action in own:
        assert isinstance(action, argparse.Action)
        assert action.option_strings[-1].replace("-", "").replace("_", "").isalnum()
        assert action.option_strings[-1] == action.option_strings[-1].lower()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--ckpt-format zarr", "zarr is not served here, only torch_dist: checkpoints are"),
        ("--context-parallel-size 2", "2 is not served here, only 1: chunks divide the sequence"),
        ("--profile", "--profile is not served here: use --timeline"),
        ("--yaml-cfg x", "use --config"),
    ],
)
def test_megatron_flags_that_ask_for_something_else_are_refused(extra: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_arguments(words(extra))
    assert message in str(refusal.value)


def test_lists_of_megatron_flags_are_no_flags_of_ours() -> None:
    actions = [action for action in make_parser()._actions if action.dest != "_without_effect"]
    own = {flag for action in actions for flag in action.option_strings}
    assert not own & (WITHOUT_EFFECT.keys() | REPLACED.keys())
    assert not WITHOUT_EFFECT.keys() & REPLACED.keys()
    named = {flag for why in REPLACED.values() for flag in re.findall(r"--[a-z0-9_-]+", why)}
    assert named - own == {"--max-restarts", "--nproc_per_node"}, (
        "replacements exist, those of torchrun apart"
    )
