"""What exp.sh asks of SLURM, on clusters that are not here: GPUs, time, account, containers."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def ask(script: str, folder: Path, **programs: str) -> str:
    """What functions of the launcher print, with make-believe programs that print a text."""
    for name, text in programs.items():
        program = folder / name
        program.write_text(f"#!/bin/bash\ncat <<'END'\n{text}\nEND\n")
        program.chmod(0o755)
    sources = "\n".join(f'source "{ROOT}/tools/launch/{name}.sh"' for name in ("settings", "train", "slurm"))
    variables = f'source "{ROOT}/tools/setup_environment.sh"\n{sources}\nexport PATH="{folder}:$PATH"'
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{variables}\n{script}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    ("generic_resources", "gpus"),
    [
        ("(null)", 0),
        ("gpu:8", 8),
        ("gpu:a100:8(S:0-1)", 8),
        ("(null)\ngpu:v100:4", 4),
        ("craynetwork:4,gpu:h100:2", 2),
        ("", 0),
    ],
)
def test_gpus_are_found_where_sinfo_shows_some(generic_resources: str, gpus: int, tmp_path: Path) -> None:
    assert ask("slurm_gpus", tmp_path, sinfo=generic_resources).strip() == str(gpus)


SUBMISSION = """
PLACE=submission NODES=4 RUN_DIR="/shared/my runs/1" TIME_LIMIT=2:00:00 ACCOUNT=team PARTITION=long
choose_devices
GPUS_PER_NODE=${GPUS_PER_NODE:-2}
set_sbatch --seed 7
quoted "${SBATCH[@]}"
"""


def test_a_job_asks_for_the_gpus_there_are(tmp_path: Path) -> None:
    printed = ask(SUBMISSION, tmp_path, sinfo="gpu:a100:8")
    assert "--nodes 4 --ntasks-per-node 1" in printed
    assert "--gres gpu:8 --exclusive" in printed
    assert "--time 2:00:00 --account team --partition long" in printed
    assert "--output '/shared/my runs/1/slurm.log'" in printed
    assert "--wrap 'exec bash exp.sh --seed 7'" in printed
    assert "--signal=B:USR1@180" in printed


def test_a_job_without_gpus_asks_for_processors(tmp_path: Path) -> None:
    printed = ask(SUBMISSION, tmp_path, sinfo="(null)")
    assert "--cpus-per-task 2" in printed
    assert "gpu" not in printed


SWEEP = """
submit() { set_sbatch "$@"; quoted "${SBATCH[@]}"; echo "variables: $NODES, $GPUS_PER_NODE"; }
PLACE=submission RUN_DIR=/runs/1 NODES="1 4" GPUS_PER_NODE="2 8"
sweep
"""


def test_a_sweep_is_a_job_of_its_largest_run(tmp_path: Path) -> None:
    printed = ask(SWEEP, tmp_path, sinfo="gpu:8")
    assert "--nodes 4 --ntasks-per-node 1" in printed
    assert "--gres gpu:8" in printed
    assert "variables: 1 4, 2 8" in printed, "the job still sees the lists"


CONTAINER = """
NODES=2 NUM_GPUS=8 GPUS_PER_NODE=8 RUN_DIR=/runs/1 CONTAINER=image.sqsh SLURM_JOB_CPUS_PER_NODE="96(x2)"
set_srun
quoted "${SRUN[@]}"
echo "$PYTHON"
"""


def test_a_container_is_started_by_pyxis_where_srun_has_it(tmp_path: Path) -> None:
    printed = ask(CONTAINER, tmp_path, srun="  --container-image=[USER@]IMAGE  [pyxis] the image")
    assert "--cpus-per-task 96" in printed
    assert "--gres gpu:8" in printed
    asked = shlex.split(printed)
    assert asked[asked.index("--container-image") + 1] == "image.sqsh"
    assert asked[asked.index("--container-mounts") + 1].startswith(f"{Path.cwd()}:")
    assert printed.splitlines()[-1] == "python3"


def test_else_by_apptainer_else_it_is_refused(tmp_path: Path) -> None:
    assert "neither is here" in ask(CONTAINER, tmp_path, srun="no such option")
    printed = ask(CONTAINER, tmp_path, srun="no such option", apptainer="")
    assert "apptainer exec --bind" in printed
    assert "--nv image.sqsh" in printed


def test_an_address_is_found_for_a_node_without_a_name_in_dns(tmp_path: Path) -> None:
    scontrol = "NodeName=none.invalid Arch=x86_64 NodeAddr=10.1.2.3 NodeHostName=x"
    assert ask("SLURM_JOB_NODELIST=n[1-2] first_node", tmp_path, scontrol=scontrol).strip() == "10.1.2.3"
