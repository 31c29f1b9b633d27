# shellcheck shell=bash
# Sourced by exp.sh: starts the processes of a run, here, by srun, or by ssh on the hosts of a file.

# train: starts what set_flags has set, and waits for it.
train() {
  prepare_launch
  local status=0
  say "training: $NODES x $GPUS_PER_NODE processes, output also in $RUN_DIR/train.log and $RUN_DIR/logs"
  case $PLACE in
    allocation) run_interruptibly ask_to_save run_and_log "${LAUNCH[@]}" || status=$? ;;
    hosts) run_and_log start_on_hosts || status=$? ;;
    *) run_and_log "${LAUNCH[@]}" || status=$? ;;
  esac
  if [ "$status" != 0 ]; then
    python tools/explain_failure.py "$RUN_DIR" >&2 || true
    if [ "$PLACE" = allocation ]; then
      requeue_after_crash
    fi
    fail "training ended early: the reason stands above, and in $RUN_DIR/train.log and $RUN_DIR/logs"
  fi
  if [ "$PLACE" = allocation ]; then
    requeue_if_stopped
  fi
}

# prepare_launch: the environment of the processes, and LAUNCH, which starts all of them or those of this node.
prepare_launch() {
  if [ "$NUM_GPUS" -gt 0 ]; then
    export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}
  elif [ "$NODES" = 1 ] && [ -e /sys/class/net/lo ]; then
    export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo}
  fi
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  export RUN_DIR NODES GPUS_PER_NODE
  export RENDEZVOUS_SECONDS=${RENDEZVOUS_SECONDS:-300}
  mkdir -p "$RUN_DIR/logs"
  # Where this start's part of the log begins.
  touch "$RUN_DIR/train.log"
  stat -c %s "$RUN_DIR/train.log" >"$RUN_DIR/logs/started"
  if [ "$NODES" -gt 1 ]; then
    set_rendezvous
  fi
  local -a node=(bash tools/launch/node.sh "${MODEL_FLAGS[@]}" "${DATA_FLAGS[@]}" "${RUN_FLAGS[@]}")
  LAUNCH=("${node[@]}")
  if [ "$PLACE" = allocation ]; then
    set_srun
    LAUNCH=("${SRUN[@]}" "${node[@]}")
  fi
  set_command
  quoted "${COMMAND[@]}" >"$RUN_DIR/command.txt"
}

# set_rendezvous: where the nodes of a run meet.
set_rendezvous() {
  local port
  port=${MASTER_PORT:-$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')}
  export RENDEZVOUS_ID=${SLURM_JOB_ID:-exp}
  case $PLACE in
    allocation) RENDEZVOUS=$(first_node):$port ;;
    hosts) RENDEZVOUS=${MASTER_ADDR:-${HOSTS[0]}}:$port ;;
    node) RENDEZVOUS=$MASTER_ADDR:${MASTER_PORT:-29500} ;;
  esac
  export RENDEZVOUS
  printf '%s (waited %s s)\n' "$RENDEZVOUS" "$RENDEZVOUS_SECONDS" >"$RUN_DIR/logs/rendezvous"
}

# run_and_log COMMAND...: runs it with its output on the terminal and in train.log.
run_and_log() {
  "$@" 2>&1 | tee -a "$RUN_DIR/train.log"
}

# run_interruptibly HANDLER COMMAND...: in a batch job, HANDLER PID is called on the signal before the time limit.
run_interruptibly() {
  local handler=$1 pid status=0
  shift
  if ! is_batch_job; then
    "$@"
    return
  fi
  trap '"$handler" "$pid"' USR1
  "$@" &
  pid=$!
  while true; do
    status=0
    wait "$pid" || status=$?
    kill -0 "$pid" 2>/dev/null || break
  done
  trap - USR1
  return "$status"
}

# read_hostfile: HOSTS, NODES and GPUS_PER_NODE from lines such as "node1 slots=8".
read_hostfile() {
  [ -r "$HOSTFILE" ] || refuse "HOSTFILE=$HOSTFILE cannot be read; it holds one host per line, as in: node1 slots=8"
  local line host slots
  HOSTS=()
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line%%#*}
    read -r host slots <<<"$line"
    [ -n "$host" ] || continue
    HOSTS+=("$host")
    [[ $slots != slots=* ]] || GPUS_PER_NODE=${GPUS_PER_NODE:-${slots#slots=}}
  done <"$HOSTFILE"
  [ "${#HOSTS[@]}" -gt 0 ] || refuse "HOSTFILE=$HOSTFILE names no host; it holds one per line, as in: node1 slots=8"
  NODES=${NODES:-${#HOSTS[@]}}
  [ "$NODES" -le "${#HOSTS[@]}" ] || refuse "NODES=$NODES is more than the ${#HOSTS[@]} hosts of HOSTFILE=$HOSTFILE"
  HOSTS=("${HOSTS[@]:0:NODES}")
}

# start_on_hosts: LAUNCH on every host by ssh; the first that fails ends the others.
start_on_hosts() {
  local rank status=0 pipe
  local -a running=()
  # Each node ends when its standard input does: when this shell closes the pipe, or is gone.
  pipe=$(mktemp -u)
  mkfifo "$pipe"
  exec 9<>"$pipe"
  rm "$pipe"
  for rank in "${!HOSTS[@]}"; do
    # shellcheck disable=SC2029  # expanded here on purpose
    ${REMOTE_SHELL:-ssh} "${HOSTS[rank]}" "$(remote_command "$rank")" </proc/self/fd/9 9>&- &
    running[rank]=$!
  done
  while [ ${#running[@]} -gt 0 ] && [ "$status" = 0 ]; do
    sleep 0.5 9>&-
    for rank in "${!running[@]}"; do
      kill -0 "${running[rank]}" 2>/dev/null && continue
      wait "${running[rank]}" || status=$?
      unset "running[rank]"
      [ "$status" = 0 ] || say "${HOSTS[rank]} ended with status $status: ending the others"
    done
  done
  exec 9>&-
  for _ in {1..40}; do # a host that is gone answers nothing
    [ -n "$(jobs -r)" ] || break
    sleep 1
  done
  [ ${#running[@]} = 0 ] || kill "${running[@]}" 2>/dev/null || true
  return "$status"
}

# remote_command RANK: prints what a host's shell is to run.
remote_command() {
  local name
  local -a variables=(NODE_RANK="$1" WATCH_INPUT=1)
  while IFS= read -r name; do
    variables+=("$name=${!name}")
  done < <(compgen -e | grep -E '^(NCCL|GLOO|TORCH|CUDA|OMP|HF|RENDEZVOUS|PYTHON)|^(RUN_DIR|NODES|GPUS_PER_NODE)$')
  printf 'cd %q && exec env' "$PWD"
  printf ' %q' "${variables[@]}" "${LAUNCH[@]}"
}

# set_command: COMMAND, what each node runs, as torchrun is typed by hand.
set_command() {
  COMMAND=(torchrun --nproc_per_node "$GPUS_PER_NODE" --standalone)
  if [ "$NODES" -gt 1 ]; then
    COMMAND=(torchrun --nproc_per_node "$GPUS_PER_NODE" --nnodes "$NODES" --rdzv-backend c10d
      --rdzv-endpoint "${RENDEZVOUS:-FIRST_NODE:29500}" --rdzv-id exp)
  fi
  COMMAND+=(pretrain_gpt.py "${MODEL_FLAGS[@]}" "${DATA_FLAGS[@]}" "${RUN_FLAGS[@]}")
}

# show_commands FLAGS...: what would be run, and what every stage would hold.
show_commands() {
  if [ "$PLACE" = submission ]; then
    set_sbatch "$@"
    say "submits itself"
    quoted "${SBATCH[@]}"
  fi
  say "on each of $NODES nodes"
  set_command
  quoted "${COMMAND[@]}"
  say "memory"
  echo "$MEMORY_ESTIMATE"
}

# quoted WORDS...: prints a command as it can be typed.
quoted() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+="$word "
  done
  echo "${line% }"
}
