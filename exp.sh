#!/usr/bin/env bash
#SBATCH --requeue --signal=B:USR1@180 --open-mode=append
# Trains a GPT on real text with Seq1F1B, from nothing: environment, sample corpus, tokenizer, token files, training.
# What is already there is not made again.
#
#   bash exp.sh                                    # a small GPT; four CPU processes, or the GPUs of this machine
#   SCHEDULE=1f1b bash exp.sh                      # the same with Megatron-Core's 1F1B
#   SCHEDULE="1f1b seq1f1b" PP_SP="1 4" bash exp.sh   # every combination, and a table that compares them
#   MODEL=7b PP_SIZE=8 TP_SIZE=4 NODES=4 GPUS_PER_NODE=8 DRY_RUN=1 bash exp.sh   # commands and memory, nothing runs
#   MODEL=7b PP_SIZE=8 TP_SIZE=4 NODES=4 bash exp.sh  # where there is SLURM: submits itself
#   DATA_PATH=my_text_document VOCAB_FILE=v.json MERGE_FILE=m.txt bash exp.sh
#   bash exp.sh --seed 7 --swiglu                  # further flags go to pretrain_gpt.py, and win
#
# Variables, with their defaults (flags of pretrain_gpt.py in brackets). Those marked * may be lists, "1 2 4": then
# every combination runs, and a table compares them.
#   MODEL=tiny              * tiny, 1.3b, 2.7b, 7b, 13b, 30b, llama2-7b, llama3-8b, llama3-70b
#   NUM_LAYERS HIDDEN_SIZE NUM_HEADS   * other sizes than the model's
#   SCHEDULE=seq1f1b        * [--pipeline-schedule] seq1f1b, seq1f1b-interleaved, seq1f1b-zb, 1f1b, interleaved, plan.csv
#   PP_SP=4                 * [--pipe-sp-splits] chunks per sequence; 1 with 1f1b and interleaved
#   PP_SP_STR=uniform_comp  * [--pipe-sp-strategy] or average, profiled
#   PP_SIZE=4               * [--pipeline-model-parallel-size]; with fewer than four GPUs, as many as fit
#   TP_SIZE=1               * [--tensor-model-parallel-size]; above 1 with --sequence-parallel
#   VPP_SIZE=1              * virtual stages per stage (2 with the interleaved schedules)
#   SEQ_LENGTH=2048 MICRO_BATCH=1 GLOBAL_BATCH=4 TRAIN_ITER=32   * with more than one replica, GLOBAL_BATCH is four each
#   RECOMPUTE=none          * [--recompute-granularity] selective or full
#   PRECISION=bf16          * or fp16, fp32; fp32 for the tiny model without GPUs
#   LR                      * [--lr] the model's
#   PROFILE=0               * [--timeline] so many steps as a timeline
#   NODES=1 GPUS_PER_NODE   * GPUs, or processes, per node; all GPUs, or PP_SIZE x TP_SIZE processes without GPUs
#   DATA_PATH               * token files, without .bin and .idx (several: divided by commas); needs VOCAB_FILE and
#                             MERGE_FILE, or flags
#   SAMPLE_DIR=data/sample    where the sample corpus, its tokenizer and its token files are kept
#   SAMPLE_MEGABYTES=30       how much text the sample corpus holds
#   RUN_DIR                   where the run writes; a new folder below runs/
#   SAVE SAVE_INTERVAL        checkpoints: their folder (in SLURM jobs one in RUN_DIR), and steps between them
#   LOAD FINETUNE=1           what to start from where SAVE holds nothing yet; and of that the weights alone
#   DRY_RUN=1                 prints the commands and the memory estimate, and starts nothing
#   RUN_MINUTES               in a sweep, ends a run that takes longer
#   TIME_LIMIT ACCOUNT PARTITION CONTAINER   of SLURM jobs; docs/cluster.md has these and HOSTFILE, MASTER_ADDR, ...
#   PYTHON                    the Python to start from
set -euo pipefail

main() {
  local started_at=$SECONDS
  resolve_paths
  cd "$(repository)"
  source tools/setup_environment.sh
  source tools/launch/settings.sh
  source tools/launch/given.sh
  source tools/launch/sample.sh
  source tools/launch/train.sh
  source tools/launch/slurm.sh
  choose_place
  check_given
  use_environment train
  if [ -z "${DATA_PATH:-}" ] && [ "${DRY_RUN:-0}" != 1 ]; then
    prepare_sample
  fi
  if is_sweep; then
    sweep "$@"
    return
  fi
  choose_settings
  check_settings "$@"
  if [ "${DRY_RUN:-0}" = 1 ]; then
    show_commands "$@"
  elif [ "$PLACE" = submission ]; then
    submit "$@"
  else
    train
    if [ "$PLACE" = node ] && [ "${NODE_RANK:-0}" != 0 ]; then
      say "done in $((SECONDS - started_at)) s; the first node has what was measured"
      return
    fi
    python tools/summarize_run.py "$RUN_DIR"
    say "done in $((SECONDS - started_at)) s. Next, try:"
    suggest_next
  fi
}

# repository: prints the folder of this file; a batch script is a copy elsewhere, submitted from that folder.
repository() {
  local folder
  folder=$(dirname "${BASH_SOURCE[0]}")
  if [ -n "${SLURM_JOB_ID:-}" ] && ! [ -e "$folder/pretrain_gpt.py" ]; then
    folder=${SLURM_SUBMIT_DIR:-$folder}
  fi
  echo "$folder"
}

# resolve_paths: paths that were given are seen from where the command was typed, not from this file's folder.
resolve_paths() {
  local name path resolved
  export STARTED_IN=${STARTED_IN:-$PWD} # of the plan files among schedules, which may be a list
  for name in VOCAB_FILE MERGE_FILE SAMPLE_DIR RUN_DIR SAVE LOAD HOSTFILE; do
    case ${!name:-/} in
      /*) ;;
      *) export "$name=$PWD/${!name}" ;;
    esac
  done
  if [ -n "${DATA_PATH:-}" ]; then
    resolved=
    while IFS= read -r path; do
      [[ $path = /* ]] || path=$PWD/$path
      resolved+=${resolved:+,}$path
    done <<<"${DATA_PATH//,/$'\n'}"
    export DATA_PATH=$resolved
  fi
}

# suggest_next: commands worth typing after this run.
suggest_next() {
  if [ "$SCHEDULE" = seq1f1b ]; then
    echo "  SCHEDULE=1f1b bash exp.sh               # Megatron-Core's 1F1B: compare tokens/s and memory"
  else
    echo "  SCHEDULE=seq1f1b bash exp.sh            # the same with Seq1F1B: compare tokens/s and memory"
  fi
  echo "  SCHEDULE=\"1f1b seq1f1b\" bash exp.sh     # both, and a table that compares them"
  echo "  PP_SP=8 SEQ_LENGTH=4096 bash exp.sh     # more chunks of longer sequences"
  echo "  TRAIN_ITER=1000 bash exp.sh             # train for longer"
  echo "  bash tests/run.sh                       # the tests"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then # not when a test sources the functions
  main "$@"
fi
