"""pretrain_gpt.py: what cannot run is refused before processes join, in one message, with status 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pretrain_gpt
from megatron.seq1f1b.config import notes_on, parse_arguments, validate
from megatron.seq1f1b.schedule import make_plan, plan_to_csv
from tests.config.flags import words
from tests.data.corpora import END, MERGE_FILE, VOCAB_FILE, VOCAB_SIZE, random_documents, write_pair

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
TP2 = "--tensor-model-parallel-size 2"
TP4_HEADS12 = (
    "--tensor-model-parallel-size 4 --pipeline-model-parallel-size 1 --num-attention-heads 12 "
    "--hidden-size 48 --group-query-attention"
)
INTERLEAVED = "--pipeline-schedule interleaved --num-virtual-stages-per-pipeline-rank 2"
FILES = "--no-mock-data --data-path"

REFUSALS = [
    # chunks
    ("--pipe-sp-splits 0", "--pipe-sp-splits 0 must be at least 1"),
    ("--pipe-sp-splits 65", "--pipe-sp-splits 65 is more than the 64 tokens of --seq-length"),
    ("--pipe-sp-splits 3 --pipe-sp-strategy average", "use 2 or 4, or --pipe-sp-strategy uniform_comp"),
    ("--pipe-sp-strategy avrage", "use one of average, uniform_comp"),
    (f"{TP2} --sequence-parallel --pipe-sp-splits 33", "only 32 multiples of 2 tokens"),
    (
        f"{TP2} --sequence-parallel --pipe-sp-splits 8 --seq-length 72 --pipe-sp-strategy average",
        "in multiples of 2",
    ),
    ("--sequence-parallel", "--tensor-model-parallel-size is 1"),
    (f"{TP2} --sequence-parallel --seq-length 63", "--seq-length 63 is not divisible"),
    # the model over processes
    ("--num-layers 7", "--num-layers 7 is not divisible by --pipeline-model-parallel-size 2"),
    ("--num-attention-heads 5", "--hidden-size 32 is not divisible by --num-attention-heads 5"),
    ("--tensor-model-parallel-size 8", "--num-attention-heads 4 is not divisible by"),
    (f"{TP4_HEADS12} --num-query-groups 6", "12 attention heads can be in 1, 2, 4, 12 groups"),
    (f"{TP4_HEADS12} --num-query-groups 1 --kv-channels 1", "the 14 rows that project"),
    ("--group-query-attention --num-query-groups 3", "--num-query-groups 3; change one of them"),
    ("--num-query-groups 2", "needs --group-query-attention"),
    ("--global-batch-size 7 --micro-batch-size 2", "= 4; use 4 or 8"),
    ("--pipeline-model-parallel-size 3 --num-layers 9", "4 processes cannot hold"),
    ("--max-position-embeddings 8", "use at least the sequence length"),
    # schedules
    ("--pipeline-schedule seq1fb", "did you mean seq1f1b? (there are 1f1b, interleaved, seq1f1b,"),
    ("--pipeline-schedule 1f1b", "use seq1f1b, or 1 chunk"),
    ("--pipeline-schedule interleaved", "use seq1f1b-interleaved, or 1 chunk"),
    ("--pipeline-schedule interleaved --pipe-sp-splits 1", "needs virtual stages"),
    ("--pipeline-schedule seq1f1b --num-virtual-stages-per-pipeline-rank 2", "use seq1f1b-interleaved"),
    (f"{INTERLEAVED} --pipe-sp-splits 1 --global-batch-size 6", "use 2 or 4 microbatches, or seq1f1b-interl"),
    ("--pipeline-schedule absent.CSV", "absent.CSV: there is no such file"),
    ("--pipeline-schedule plans/mine.txt", "does not exist; the name of a plan's file ends in .csv"),
    ("--zero-bubble-max-pending-weight-grads 2", "use seq1f1b-zb, or no bound"),
    # numbers
    ("--lr -1", "--lr -1.0 must be more than 0"),
    ("--lr nan", "--lr nan must be a finite number"),
    ("--min-lr 1", "--min-lr 1 is more than --lr 0.001"),
    ("--lr-warmup-iters 4", "--lr-warmup-iters 4 leaves nothing of the 4 steps"),
    ("--adam-beta1 1", "less than 1"),
    ("--attention-dropout 0.1", "use 0 (--hidden-dropout may be more)"),
    ("--train-iters 0", "--train-iters 0 must be at least 1"),
    # flags
    ("--nmu-layers 3", "did you mean --num-layers?"),
    ("--pipe-sp-split 4", "did you mean --pipe-sp-splits?"),
    ("--normalization Norm", "choose from"),
    # data
    ("--no-mock-data", "0 of these are given"),
    ("--data-path x", "2 of these are given"),
    (f"{FILES} absent", "absent.idx cannot be read"),
    ("--vocab-size 0", "leaves NullTokenizer without ids"),
    ("--dataloader-type random", "choose from single, cyclic"),
    ("--tokenizer-type WordTokenizer", "WordTokenizer"),
]


def start(monkeypatch: pytest.MonkeyPatch, extra: str, *, rank: int = 0, world_size: int = 4) -> int:
    """pretrain_gpt.py's main on one of so many processes."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    return pretrain_gpt.main(words(extra))


@pytest.mark.parametrize(("extra", "message"), REFUSALS, ids=[extra for extra, _ in REFUSALS])
def test_refusals_are_one_line_from_rank_0(
    extra: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(monkeypatch, extra, rank=1) == 2
    assert capsys.readouterr() == ("", "")
    assert start(monkeypatch, extra) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.startswith("pretrain_gpt.py: ")
    assert len(printed.err.splitlines()) == 1


def test_another_node_says_what_it_alone_may_have_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrain_gpt, "_SECONDS_FOR_RANK_0", 0.0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    said = []
    for group_rank, local_rank in (("0", "1"), ("1", "1"), ("1", "0")):
        monkeypatch.setenv("GROUP_RANK", group_rank)
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        assert start(monkeypatch, "--train-iters 0", rank=2) == 2
        said.append(capsys.readouterr().err)
    assert said == ["", "", "pretrain_gpt.py: rank 2: --train-iters 0 must be at least 1\n"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0F0.0,0B0.0\n1F0.0,1B0.0\n", "1 microbatches"),
        ("0F0.0,0B0.0\n", "1 pipeline stages (--pipeline-model-parallel-size) where the run has 2"),
        ("0F0.0\n1F0.0\n", "no backward"),
        ("0F0.0,0B0.0\n1F0.0\n", "1B0.0"),
        ("0F0.0,1B\n", "line 1, column 2"),
        ("", "has no actions"),
    ],
)
def test_plan_files_that_cannot_run_are_refused(
    text: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "plan.csv"
    path.write_text(text)
    assert start(monkeypatch, f"--pipeline-schedule {path}") == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "plan.csv" in printed


def test_torchrun_ends_at_once_with_one_message(tmp_path: Path) -> None:
    """As a user would start it: no traceback of ours, no hang, torch not even imported."""
    done = subprocess.run(
        [*TORCHRUN, "--nproc_per_node", "2", str(ROOT / "pretrain_gpt.py"), *words("--pipe-sp-splits 0")],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, "torchrun's own status"
    assert done.stderr.count("--pipe-sp-splits 0 must be at least 1") == 1
    assert "exitcode  : 2" in done.stderr
    assert 'pretrain_gpt.py", line' not in done.stderr


def test_a_refusal_imports_neither_torch_nor_megatron_core() -> None:
    code = (
        "import sys, pretrain_gpt; status = pretrain_gpt.main(sys.argv[1:]); "
        "assert not {'torch', 'megatron.core'} & set(sys.modules); sys.exit(status)"
    )
    command = [
        sys.executable,
        "-c",
        code,
        *words("--pipe-sp-strategy avrage --pipeline-model-parallel-size 1"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr


def test_a_plan_file_trains_in_its_own_order(tmp_path: Path) -> None:
    """A schedule's plan with the microbatches the other way around gives the losses of the schedule."""
    text = plan_to_csv(make_plan("seq1f1b", stages=1, microbatches=2, chunks=2))
    (tmp_path / "plan.csv").write_text(re.sub(r"(?<=[FB])\d", lambda number: str(1 - int(number[0])), text))
    losses = [_losses(tmp_path, schedule) for schedule in ("seq1f1b", "plan.csv")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def _losses(folder: Path, schedule: str) -> list[float]:
    extra = (
        f"--pipeline-model-parallel-size 1 --num-layers 1 --global-batch-size 2 --pipe-sp-splits 2 "
        f"--train-iters 2 --run-dir {folder / schedule}.run --pipeline-schedule {schedule} "
        "--use-distributed-optimizer --save save"
    )
    done = subprocess.run(
        [sys.executable, str(ROOT / "pretrain_gpt.py"), *words(extra)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), "nothing of upstream's is on the terminal"
    rows = map(json.loads, (folder / f"{schedule}.run" / "metrics.jsonl").read_text().splitlines())
    return [row[name] for row in rows for name in ("lm_loss", "grad_norm")]


FORKS_LINE = (
    "--tensor-model-parallel-size 2 --timing-log-level 2 --pipe-sp-strategy uniform_comp "
    "--pipe-sp-splits 4 --pipeline-model-parallel-size 2 --num-layers 8 --hidden-size 64 "
    "--num-attention-heads 4 --seq-length 64 --max-position-embeddings 64 --micro-batch-size 1 "
    "--global-batch-size 8 --lr 6.0e-5 --min-lr 6.0e-6 --lr-decay-style cosine --train-iters 10 "
    "--log-interval 1 --eval-iters 0 --eval-interval 1000 --use-flash-attn --data-path {data} "
    "--vocab-file {vocab} --merge-file {merges} --initial-loss-scale 65536 --save-interval 1000 "
    "--split 98,2,0 --clip-grad 1.0 --weight-decay 0.1 --adam-beta1 0.9 --adam-beta2 0.95 "
    "--init-method-std 0.006 --bf16 --position-embedding-type rope "
    "--untie-embeddings-and-output-weights --use-distributed-optimizer --hidden-dropout 0 "
    "--attention-dropout 0 --sequence-parallel --no-async-tensor-model-parallel-allreduce "
    "--num-layers-per-virtual-pipeline-stage 2 --recompute-method uniform --recompute-granularity full"
)
"""Every flag of the reference's scripts; the sizes and the files alone are ours."""


def test_the_reference_forks_launch_line_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every flag is served, or said to change nothing."""
    line = FORKS_LINE.format(data="absent", vocab="vocab.json", merges="merges.txt").split()
    layout = validate(parse_arguments(line), world_size=8)
    assert layout.schedule == "seq1f1b-interleaved"
    assert [note.split()[0] for note in notes_on(line)] == [
        "--timing-log-level",
        "--use-flash-attn",
        "--no-async-tensor-model-parallel-allreduce",
    ]
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.chdir(tmp_path)
    assert pretrain_gpt.main(line) == 2
    assert "vocab.json" in capsys.readouterr().err, "all that is left to complain about are the files"


@pytest.mark.slow
def test_the_reference_forks_launch_line_trains(tmp_path: Path) -> None:
    documents = random_documents(num_documents=300, vocab_size=VOCAB_SIZE, eod=END)
    line = FORKS_LINE.format(
        data=write_pair(tmp_path / "data", documents), vocab=VOCAB_FILE, merges=MERGE_FILE
    )
    done = subprocess.run(
        [*TORCHRUN, "--nproc_per_node", "8", str(ROOT / "pretrain_gpt.py"), *line.split()],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line.split()[0] for line in done.stdout.splitlines() if "changes nothing here" in line]
    asked_in_vain = ["--timing-log-level", "--use-flash-attn", "--no-async-tensor-model-parallel-allreduce"]
    assert said == [*asked_in_vain, "--initial-loss-scale", "--save-interval"]
    assert "Warning" not in done.stderr
    (rows,) = tmp_path.glob("runs/*/metrics.jsonl")
    losses = [json.loads(row)["lm_loss"] for row in rows.read_text().splitlines()]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
