# shellcheck shell=bash
# Sourced by exp.sh: every variable that was not given, and what cannot run, said before anything starts.

# What a sweep may vary: each of these may be a list.
SWEPT=(MODEL NUM_LAYERS HIDDEN_SIZE NUM_HEADS SCHEDULE PP_SP PP_SP_STR PP_SIZE TP_SIZE VPP_SIZE SEQ_LENGTH
  MICRO_BATCH GLOBAL_BATCH TRAIN_ITER RECOMPUTE PRECISION LR PROFILE NODES GPUS_PER_NODE DATA_PATH)

# choose_place: PLACE, where processes will be started: by a job to submit, in a SLURM allocation, on the hosts of a
# file, on this node as one of several, or on this machine.
choose_place() {
  if [ -n "${SLURM_JOB_ID:-}" ] && command -v srun >/dev/null; then
    PLACE=allocation
  elif [ -n "${HOSTFILE:-}" ]; then
    PLACE=hosts
  elif [ -n "${MASTER_ADDR:-}" ]; then
    PLACE=node
  elif [ -n "${NODES:-}" ] && command -v sbatch >/dev/null; then
    PLACE=submission
  else
    PLACE=machine
  fi
}

# choose_settings: the machine's devices, then every variable that was not given.
choose_settings() {
  choose_devices
  MODEL=${MODEL:-tiny}
  SCHEDULE=${SCHEDULE:-seq1f1b}
  case $SCHEDULE in
    1f1b | interleaved) PP_SP=${PP_SP:-1} ;;
    *) PP_SP=${PP_SP:-4} ;;
  esac
  case $SCHEDULE in
    /*) ;;
    *.[cC][sS][vV]) SCHEDULE=${STARTED_IN:-$PWD}/$SCHEDULE ;;
  esac
  case $SCHEDULE in
    *interleaved) VPP_SIZE=${VPP_SIZE:-2} ;;
    *) VPP_SIZE=${VPP_SIZE:-1} ;;
  esac
  PP_SP_STR=${PP_SP_STR:-uniform_comp}
  TP_SIZE=${TP_SIZE:-1}
  PP_SIZE=${PP_SIZE:-$(default_stages)}
  SEQ_LENGTH=${SEQ_LENGTH:-2048}
  MICRO_BATCH=${MICRO_BATCH:-1}
  if [ -n "${GPUS_PER_NODE:-}" ] || [ "$NODES" -gt 1 ]; then
    GPUS_PER_NODE=${GPUS_PER_NODE:-$(processes_of_a_node)}
    check_processes
    GLOBAL_BATCH=${GLOBAL_BATCH:-$((4 * MICRO_BATCH * NODES * GPUS_PER_NODE / (TP_SIZE * PP_SIZE)))}
  fi
  GLOBAL_BATCH=${GLOBAL_BATCH:-4}
  GPUS_PER_NODE=${GPUS_PER_NODE:-$(default_processes)}
  TRAIN_ITER=${TRAIN_ITER:-32}
  RECOMPUTE=${RECOMPUTE:-none}
  PROFILE=${PROFILE:-0}
  if [ "$NUM_GPUS" = 0 ] && [ "$MODEL" = tiny ]; then
    PRECISION=${PRECISION:-fp32}
  fi
  PRECISION=${PRECISION:-bf16}
  RUN_DIR=${RUN_DIR:-$PWD/runs/$(date +%Y%m%d-%H%M%S)-$MODEL-$(basename "$SCHEDULE" .csv)-pp$PP_SIZE-tp$TP_SIZE-k$PP_SP}
  export RUN_DIR
}

# choose_devices: NODES, and NUM_GPUS of each as far as can be known from here.
choose_devices() {
  case $PLACE in
    submission)
      NUM_GPUS=$(slurm_gpus)
      GPUS_PER_NODE=${GPUS_PER_NODE:-${NUM_GPUS#0}}
      ;;
    allocation)
      NUM_GPUS=$(count_gpus)
      NODES=${NODES:-${SLURM_JOB_NUM_NODES:-1}}
      GPUS_PER_NODE=${GPUS_PER_NODE:-${NUM_GPUS#0}}
      ;;
    hosts)
      NUM_GPUS=$(count_gpus)
      read_hostfile
      ;;
    *) NUM_GPUS=$(count_gpus) ;;
  esac
  NODES=${NODES:-1}
}

# count_gpus: prints how many CUDA devices torch can use.
count_gpus() {
  local number=0
  if nvidia-smi -L >/dev/null 2>&1; then
    number=$(python -c 'import torch; print(torch.cuda.device_count())')
    [ "$number" -gt 0 ] || say "this machine has GPUs, but this torch cannot use them: training on CPU" >&2
  fi
  echo "$number"
}

# default_stages: four, or with fewer GPUs the power of two that fits.
default_stages() {
  local stages=4 gpus=$((NUM_GPUS * NODES))
  if [ "$gpus" -gt 0 ]; then
    while [ $((stages * TP_SIZE)) -gt "$gpus" ] && [ "$stages" -gt 1 ]; do
      stages=$((stages / 2))
    done
  fi
  echo "$stages"
}

# default_processes: one model, or as many replicas of it as GPUs and global batch allow.
default_processes() {
  local per_replica=$((PP_SIZE * TP_SIZE)) replicas=1
  if [ "$NUM_GPUS" -gt "$per_replica" ]; then
    replicas=$((NUM_GPUS / per_replica))
    while [ $((GLOBAL_BATCH % (MICRO_BATCH * replicas))) -ne 0 ] && [ "$replicas" -gt 1 ]; do
      replicas=$((replicas - 1))
    done
  fi
  echo $((replicas * per_replica))
}

# processes_of_a_node: with several nodes, all GPUs, or one model spread evenly over the nodes.
processes_of_a_node() {
  local per_replica=$((PP_SIZE * TP_SIZE))
  if [ "$NUM_GPUS" -gt 0 ]; then
    echo "$NUM_GPUS"
  elif [ $((per_replica % NODES)) -eq 0 ]; then
    echo $((per_replica / NODES))
  else
    echo "$per_replica"
  fi
}

# check_processes: nodes x processes hold whole replicas of the model.
check_processes() {
  local processes=$((NODES * GPUS_PER_NODE)) per_replica=$((TP_SIZE * PP_SIZE)) above
  if [ $((processes % per_replica)) -ne 0 ]; then
    above=$(((processes / per_replica + 1) * per_replica))
    refuse "NODES=$NODES x GPUS_PER_NODE=$GPUS_PER_NODE = $processes processes cannot hold TP_SIZE=$TP_SIZE x" \
      "PP_SIZE=$PP_SIZE = $per_replica; they must be a multiple of it, such as $above: change one of the four"
  fi
}

# set_flags FLAGS...: everything pretrain_gpt.py is told, in MODEL_FLAGS, DATA_FLAGS and RUN_FLAGS; FLAGS win.
set_flags() {
  local listed
  listed=$(python tools/named_model.py "$MODEL" 2>&1) || refuse "MODEL=$MODEL: ${listed#named_model.py: }"
  mapfile -t MODEL_FLAGS <<<"$listed"
  [ -z "${NUM_LAYERS:-}" ] || MODEL_FLAGS+=(--num-layers "$NUM_LAYERS")
  [ -z "${HIDDEN_SIZE:-}" ] || MODEL_FLAGS+=(--hidden-size "$HIDDEN_SIZE")
  [ -z "${NUM_HEADS:-}" ] || MODEL_FLAGS+=(--num-attention-heads "$NUM_HEADS")
  case $PRECISION in
    bf16) ;; # as the model's flags say
    fp16) MODEL_FLAGS+=(--no-bf16 --fp16) ;;
    fp32) MODEL_FLAGS+=(--no-bf16) ;;
    *) refuse "PRECISION=$PRECISION does not exist; use bf16, fp16 or fp32" ;;
  esac
  DATA_FLAGS=(--split "98,2,0")
  [ -z "${DATA_PATH:-}" ] || DATA_FLAGS+=(--data-path "$DATA_PATH")
  if [ -n "${VOCAB_FILE:-}" ] && [ -n "${MERGE_FILE:-}" ]; then
    DATA_FLAGS+=(--tokenizer-type GPT2BPETokenizer --vocab-file "$VOCAB_FILE" --merge-file "$MERGE_FILE")
  elif [ -n "${DATA_PATH:-}" ] && [[ " $* " != *" --tokenizer-type "* ]] && [ "${DRY_RUN:-0}" != 1 ]; then
    refuse "DATA_PATH=$DATA_PATH needs its tokenizer: VOCAB_FILE=.../vocab.json MERGE_FILE=.../merges.txt," \
      "or --tokenizer-type and what belongs to it after exp.sh"
  fi
  RUN_FLAGS=(
    --seq-length "$SEQ_LENGTH" --max-position-embeddings "$SEQ_LENGTH"
    --micro-batch-size "$MICRO_BATCH" --global-batch-size "$GLOBAL_BATCH" --train-iters "$TRAIN_ITER"
    --lr-decay-style cosine --lr-warmup-iters $((TRAIN_ITER / 10))
    --weight-decay 0.1 --adam-beta1 0.9 --adam-beta2 0.95 --clip-grad 1.0 --seed 1234
    --tensor-model-parallel-size "$TP_SIZE" --pipeline-model-parallel-size "$PP_SIZE"
    --pipeline-schedule "$SCHEDULE" --pipe-sp-splits "$PP_SP" --pipe-sp-strategy "$PP_SP_STR"
    --log-interval 1 --eval-iters 0 --run-dir "$RUN_DIR"
  )
  [ -z "${LR:-}" ] || RUN_FLAGS+=(--lr "$LR" --min-lr 0)
  [ "$TP_SIZE" = 1 ] || RUN_FLAGS+=(--sequence-parallel)
  [ "$VPP_SIZE" = 1 ] || RUN_FLAGS+=(--num-virtual-stages-per-pipeline-rank "$VPP_SIZE")
  [ $((NODES * GPUS_PER_NODE)) = $((TP_SIZE * PP_SIZE)) ] || RUN_FLAGS+=(--use-distributed-optimizer)
  [ "$PROFILE" = 0 ] || RUN_FLAGS+=(--timeline "$PROFILE")
  case $RECOMPUTE in
    none) ;;
    selective) RUN_FLAGS+=(--recompute-granularity selective) ;;
    full) RUN_FLAGS+=(--recompute-granularity full --recompute-method uniform --recompute-num-layers 1) ;;
    *) refuse "RECOMPUTE=$RECOMPUTE does not exist; use none, selective or full" ;;
  esac
  set_checkpoint_flags
  RUN_FLAGS+=("$@")
}

# set_checkpoint_flags: a run that saves goes on from its own newest checkpoint, and starts from LOAD where it has none.
set_checkpoint_flags() {
  if [ "${IN_SWEEP:-0}" = 0 ] && { [ "$PLACE" = submission ] || is_batch_job; }; then
    SAVE=${SAVE:-$RUN_DIR/checkpoints}
  fi
  if [ -n "${SAVE:-}" ]; then
    RUN_FLAGS+=(--save "$SAVE" --exit-signal-handler)
    [ -z "${SAVE_INTERVAL:-}" ] || RUN_FLAGS+=(--save-interval "$SAVE_INTERVAL")
  elif [ -n "${SAVE_INTERVAL:-}" ]; then
    refuse "SAVE_INTERVAL=$SAVE_INTERVAL needs a folder: SAVE=checkpoints"
  fi
  if [ -n "${SAVE:-}" ] && { [ -z "${LOAD:-}" ] || [ -e "$SAVE/latest_checkpointed_iteration.txt" ]; }; then
    RUN_FLAGS+=(--load "$SAVE")
  elif [ -n "${LOAD:-}" ]; then
    RUN_FLAGS+=(--load "$LOAD")
    [ "${FINETUNE:-0}" != 1 ] || RUN_FLAGS+=(--finetune)
  fi
}

# check_settings FLAGS...: sets the flags; refuses here, in a moment, what pretrain_gpt.py would refuse on every node.
check_settings() {
  set_flags "$@"
  local -a checked=("${MODEL_FLAGS[@]}" "${DATA_FLAGS[@]}" "${RUN_FLAGS[@]}")
  if [ "${DRY_RUN:-0}" = 1 ]; then
    # The answer does not depend on the text: none is needed.
    checked=("${MODEL_FLAGS[@]}" "${RUN_FLAGS[@]}" --mock-data)
    mapfile -t -O "${#checked[@]}" checked < <(python tools/named_model.py "$MODEL" --vocabulary)
  fi
  local status=0
  MEMORY_ESTIMATE=$(python tools/estimate_memory.py --world-size $((NODES * GPUS_PER_NODE)) "${checked[@]}" 2>&1) ||
    status=$?
  case $status in
    0) ;;
    2) refuse "${MEMORY_ESTIMATE#estimate_memory.py: }" ;;
    *) fail "$MEMORY_ESTIMATE" ;;
  esac
}

# refuse MESSAGE...: ends with status 2, as everything does that cannot run.
refuse() {
  printf 'refused: %s\n' "$*" >&2
  exit 2
}

# is_sweep: whether some variable is a list.
is_sweep() {
  local name
  for name in "${SWEPT[@]}"; do
    case $name=${!name:-} in
      DATA_PATH=*,*) return 0 ;;
      DATA_PATH=*) ;;
      *[[:space:]]*) return 0 ;;
    esac
  done
  return 1
}

# sweep FLAGS...: every combination of the lists, one after another.
sweep() {
  RUN_DIR=${RUN_DIR:-$PWD/runs/$(date +%Y%m%d-%H%M%S)-sweep}
  export RUN_DIR
  local name
  local -a varied=()
  for name in "${SWEPT[@]}"; do
    [ -z "${!name:-}" ] || varied+=(--vary "$name=${!name}")
  done
  if [ "${DRY_RUN:-0}" != 1 ] && [ "$PLACE" = submission ]; then
    JOB_PROCESSES=$(largest "${GPUS_PER_NODE:-$(slurm_gpus)}")
    [ "$JOB_PROCESSES" -gt 0 ] ||
      refuse "a sweep on nodes without GPUs needs the number of processes per node, as in GPUS_PER_NODE=4"
    JOB_NODES=$(largest "$NODES") submit "$@"
  else
    run_interruptibly stop_sweep python tools/sweep.py --output "$RUN_DIR" "${varied[@]}" -- "$@"
  fi
}

# largest LIST: prints its largest number.
largest() {
  tr -s '[:space:]' '\n' <<<"$1" | sort -n | tail -n 1
}
