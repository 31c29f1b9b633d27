#!/usr/bin/env bash
# Runs on every node of a run: one torchrun, whose processes log below $RUN_DIR/logs. Started by exp.sh, on this
# machine, by srun or by ssh, with further arguments for pretrain_gpt.py.
#
#   RUN_DIR PYTHON GPUS_PER_NODE     where to log, what to start, how many processes
#   NODES RENDEZVOUS RENDEZVOUS_ID   with several nodes: how many, host:port of the first, a name that they share
#   RENDEZVOUS_SECONDS               how long to wait for the others
#   WATCH_INPUT=1                    ends when standard input does: who started this over ssh is gone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

main() {
  local logs rank=${SLURM_NODEID:-${NODE_RANK:-}} meeting
  logs=$RUN_DIR/logs/node${rank:-0}-$(uname -n)
  mkdir -p "$logs"
  # Signals that ask to save go to the training processes. torchrun, which would end them at once, ignores them.
  trap '' USR1
  local -a launch=(--nproc_per_node "$GPUS_PER_NODE" --log-dir "$logs")
  if [ "$NODES" -gt 1 ]; then
    meeting=join_timeout=$RENDEZVOUS_SECONDS,read_timeout=$RENDEZVOUS_SECONDS
    # Said rather than guessed by torchrun from names: the first node holds the meeting.
    [ -z "$rank" ] || meeting+=,is_host=$((rank == 0))
    export TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE="[\${rank}] "
    launch+=(--redirects 3 --tee "0:3" --nnodes "$NODES" --rdzv-backend c10d --rdzv-endpoint "$RENDEZVOUS"
      --rdzv-id "$RENDEZVOUS_ID" --rdzv-conf "$meeting")
  else
    launch+=(--standalone --redirects "$(others_of "$GPUS_PER_NODE")")
  fi
  local -a command=("$PYTHON" -u -m torch.distributed.run "${launch[@]}" pretrain_gpt.py "$@")
  if [ "${WATCH_INPUT:-0}" = 1 ]; then
    "${command[@]}" </dev/null &
    watch_input "$!"
  else
    exec "${command[@]}"
  fi
}

# others_of NUMBER: all local ranks but 0, which speaks on the terminal, as --redirects takes them.
others_of() {
  local rank listed=0:0
  for ((rank = 1; rank < $1; rank++)); do
    listed+=,$rank:3
  done
  echo "$listed"
}

# watch_input PID: ends with PID's status; ends PID where standard input ends before it.
watch_input() {
  local pid=$1 status=0 watcher
  exec 3<&0
  (
    while read -r _ <&3; do :; done
    kill -TERM "$pid"
  ) >/dev/null 2>&1 &
  watcher=$!
  wait "$pid" || status=$?
  kill "$watcher" 2>/dev/null || true
  exit "$status"
}

main "$@"
