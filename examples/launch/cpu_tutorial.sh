#!/usr/bin/env bash
# A tutorial for a laptop: what a schedule is, what it costs, and that it trains the same model. Minutes on four cores.
#
#   bash examples/launch/cpu_tutorial.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tools/setup_environment.sh
use_environment train

say "1. The idea: four sequences through four stages, whole (1F1B) and in four chunks (Seq1F1B)"
python tools/show_schedule.py --schedule 1f1b --stages 4 --microbatches 4 --chunks 1
python tools/show_schedule.py --schedule seq1f1b --stages 4 --microbatches 4 --chunks 4

say "2. What a run would hold, before it runs"
DRY_RUN=1 bash exp.sh

say "3. Both for real, on four processes: compare tokens/s, memory and the loss, which is the same"
export RUN_DIR=${RUN_DIR:-runs/tutorial} TRAIN_ITER=${TRAIN_ITER:-8}
SCHEDULE="1f1b seq1f1b" bash exp.sh

say "4. Where to go on: docs/README.md, and the launch scripts beside this one"
