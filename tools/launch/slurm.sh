# shellcheck shell=bash
# Sourced by exp.sh: SLURM. Outside an allocation exp.sh submits itself; inside one it starts a torchrun per node. Before
# the time limit SLURM signals this shell: the run saves, ends, and the job goes back into the queue.

# is_batch_job: whether it was submitted, so that it can be put back into the queue.
is_batch_job() {
  [ "$PLACE" = allocation ] || return 1
  [ -n "${IS_BATCH_JOB:-}" ] || IS_BATCH_JOB=$(scontrol show job -o "$SLURM_JOB_ID" | grep -c 'BatchFlag=[1-9]' || true)
  [ "$IS_BATCH_JOB" = 1 ]
}

# slurm_gpus: prints how many GPUs a node of the partition has, 0 for none.
slurm_gpus() {
  local number
  number=$(sinfo --noheader -o %G ${PARTITION:+--partition "$PARTITION"} 2>/dev/null |
    sed -nE 's/.*gpu(:[^:,()]+)?:([0-9]+).*/\2/p' | sort -n | tail -n 1 || true)
  echo "${number:-0}"
}

# set_sbatch FLAGS...: SBATCH, which submits exp.sh with the variables as they are; a sweep's job is as large as its largest
# run.
set_sbatch() {
  local gpus processes=${JOB_PROCESSES:-$GPUS_PER_NODE}
  gpus=$(slurm_gpus)
  SBATCH=(sbatch --parsable --requeue "--signal=B:USR1@${SAVE_SECONDS:-180}" --open-mode append
    --nodes "${JOB_NODES:-$NODES}" --ntasks-per-node 1 --job-name "${JOB_NAME:-seq1f1b}" --output "$RUN_DIR/slurm.log"
    --chdir "$PWD")
  if [ "$gpus" -gt 0 ]; then
    SBATCH+=(--gres "gpu:$processes" --exclusive)
  else
    SBATCH+=(--cpus-per-task "${CPUS_PER_NODE:-$processes}")
  fi
  [ -z "${TIME_LIMIT:-}" ] || SBATCH+=(--time "$TIME_LIMIT")
  [ -z "${ACCOUNT:-}" ] || SBATCH+=(--account "$ACCOUNT")
  [ -z "${PARTITION:-}" ] || SBATCH+=(--partition "$PARTITION")
  SBATCH+=(--wrap "exec bash exp.sh $(quoted "$@")")
}

# submit FLAGS...: hands exp.sh to SLURM; what can be refused has been.
submit() {
  set_sbatch "$@"
  mkdir -p "$RUN_DIR"
  local job
  job=$("${SBATCH[@]}") || fail "sbatch refused the job: its reason stands above"
  say "submitted job ${job%%;*}; its output: $RUN_DIR/slurm.log"
  echo "  squeue --job ${job%%;*}                    # how it fares"
  echo "  tail -F ${RUN_DIR@Q}/slurm.log"
}

# first_node: prints where the first node can be reached.
first_node() {
  local name
  name=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  if ! getent hosts "$name" >/dev/null; then
    name=$(scontrol show node "$name" --oneliner | sed -E 's/.* NodeAddr=([^ ]+).*/\1/')
  fi
  echo "$name"
}

# set_srun: SRUN, which starts one task per node, with all that the allocation has there.
set_srun() {
  local cpus=${SLURM_JOB_CPUS_PER_NODE:-1}
  SRUN=(srun --nodes "$NODES" --ntasks "$NODES" --ntasks-per-node 1 --cpus-per-task "${cpus%%[(,]*}"
    --cpu-bind none --kill-on-bad-exit=1 --wait 60)
  if [ "$NUM_GPUS" -gt 0 ]; then
    SRUN+=(--gres "gpu:$GPUS_PER_NODE")
  fi
  if [ -n "${CONTAINER:-}" ]; then
    set_container
  fi
}

# set_container: the tasks run in an image that has what setup.py asks for: by pyxis, or by apptainer.
set_container() {
  local mounts=$PWD:$PWD,$RUN_DIR:$RUN_DIR${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}
  export PYTHON=${CONTAINER_PYTHON:-python3}
  if srun --help | grep -q -e --container-image; then
    SRUN+=(--container-image "$CONTAINER" --container-mounts "$mounts" --container-workdir "$PWD")
  elif command -v apptainer >/dev/null; then
    SRUN+=(apptainer exec --bind "$mounts" --pwd "$PWD")
    [ "$NUM_GPUS" = 0 ] || SRUN+=(--nv)
    SRUN+=("$CONTAINER")
  else
    refuse "CONTAINER=$CONTAINER needs pyxis (srun --container-image) or apptainer; neither is here"
  fi
}

# ask_to_save: SLURM's signal before the time limit goes on to the training processes (node.sh shields torchrun), once
# they listen: after their first step.
ask_to_save() {
  say "the time limit is near: the run saves and ends, and the job goes back into the queue"
  (
    until [ "$RUN_DIR/metrics.jsonl" -nt "$RUN_DIR/logs/started" ]; do
      sleep 1
    done
    sleep 2
    scancel --signal=USR1 "$SLURM_JOB_ID"
  ) &
}

# stop_sweep PID: the run that SLURM's signal meets is made again; those before it are kept.
stop_sweep() {
  kill -TERM "$1"
  wait "$1" || true
  requeue "the time limit is near"
}

# requeue_if_stopped: a run that was stopped before its last step asks for it in stopped.json.
requeue_if_stopped() {
  if [ -e "$RUN_DIR/stopped.json" ] && grep -q '"requeue": *true' "$RUN_DIR/stopped.json"; then
    requeue "stopped before its last step: $(cat "$RUN_DIR/stopped.json")"
  fi
}

# requeue_after_crash: a job that crashed starts again where it has saved something new since it started; another would
# crash for ever.
requeue_after_crash() {
  local newest=${SAVE:-}/latest_checkpointed_iteration.txt
  if [ "${IN_SWEEP:-0}" = 0 ] && [ -e "$newest" ] && [ "$newest" -nt "$RUN_DIR/logs/started" ]; then
    requeue "crashed, after it had saved step $(cat "$newest")"
  fi
}

# requeue WHY: puts this job back into the queue, which ends this shell.
requeue() {
  if ! is_batch_job; then
    say "$1: the same command with RUN_DIR=$RUN_DIR and SAVE=$SAVE goes on from there"
    return
  fi
  say "$1: back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
  sleep 60 # until SLURM ends this shell
  fail "SLURM has not taken the job back"
}
