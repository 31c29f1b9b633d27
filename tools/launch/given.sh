# shellcheck shell=bash
# Sourced by exp.sh: what was given is refused here, with an example, where it is no number, lacks its counterpart, or
# would mean nothing in this place; before anything is installed, made or submitted.

COUNTS=(NODES GPUS_PER_NODE PP_SIZE TP_SIZE VPP_SIZE PP_SP NUM_LAYERS HIDDEN_SIZE NUM_HEADS SEQ_LENGTH MICRO_BATCH
  GLOBAL_BATCH TRAIN_ITER SAVE_INTERVAL SAVE_SECONDS CPUS_PER_NODE RENDEZVOUS_SECONDS MASTER_PORT)

# check_given: all of it; needs PLACE.
check_given() {
  check_numbers
  check_switches
  check_meeting
  local name
  if ! is_sweep && [ -n "${RUN_MINUTES:-}" ] && [ "${IN_SWEEP:-0}" = 0 ]; then
    refuse "RUN_MINUTES=$RUN_MINUTES ends runs of a sweep, and no variable is a list; for a single run:" \
      "bash exp.sh --exit-duration-in-mins ${RUN_MINUTES%.*}"
  fi
  [ "${DRY_RUN:-0}" != 1 ] || return 0 # shows on any machine what another would do
  if [ "${FINETUNE:-0}" = 1 ] && [ -z "${LOAD:-}" ]; then
    refuse "FINETUNE=1 starts from the weights of a checkpoint, and LOAD is missing, as in LOAD=checkpoints/llama3-8b"
  fi
  for name in TIME_LIMIT PARTITION CONTAINER; do
    if [ -n "${!name:-}" ] && [ "$PLACE" != submission ] && [ "$PLACE" != allocation ]; then
      refuse "$name=${!name} is for SLURM jobs; where sbatch is, give NODES as well, as in NODES=2; else leave $name out"
    fi
  done
}

# check_numbers: every word of a variable that counts something is a whole number above 0.
check_numbers() {
  local name word
  local -a words
  for name in "${COUNTS[@]}" PROFILE NODE_RANK; do
    read -rd '' -a words <<<"${!name:-}" || true
    for word in "${words[@]}"; do
      [[ $word =~ ^[1-9][0-9]*$ ]] || [[ $name=$word =~ ^(PROFILE|NODE_RANK)=0$ ]] ||
        refuse "$name=$word is not a whole number above 0, as in $name=2"
    done
  done
  { [[ ${RUN_MINUTES:-1} =~ ^[0-9]+(\.[0-9]+)?$ ]] && [[ ${RUN_MINUTES:-1} =~ [1-9] ]]; } ||
    refuse "RUN_MINUTES=$RUN_MINUTES is not a number of minutes, as in RUN_MINUTES=30"
}

# check_switches: what is on or off is said by 1 or 0, and what names a folder names no file.
check_switches() {
  local name
  for name in DRY_RUN FINETUNE; do
    [[ ${!name:-0} == [01] ]] || refuse "$name=${!name} is neither 0 nor 1, as in $name=1"
  done
  for name in RUN_DIR SAVE; do
    if [ -e "${!name:-.}" ] && ! [ -d "${!name:-.}" ]; then
      refuse "$name=${!name} is a file; name a folder, as in $name=$PWD/runs/first"
    fi
  done
}

# check_meeting: exp.sh started on every node knows how many there are, which it is, and where they share results.
check_meeting() {
  if [ "$PLACE" = machine ] && [ "$(largest "${NODES:-1}")" -gt 1 ] && [ "${DRY_RUN:-0}" != 1 ]; then
    refuse "NODES=$NODES needs to know where the nodes meet: inside SLURM nothing more; else HOSTFILE=hosts.txt (one" \
      "host per line, reached by ssh), or on every node MASTER_ADDR=first-node NODE_RANK=0 (1, 2, ... on the others)"
  fi
  if [ "$PLACE" = machine ] && [ -n "${NODE_RANK:-}" ]; then
    refuse "NODE_RANK=$NODE_RANK is one of several nodes, and where they meet is missing, as in MASTER_ADDR=node1 NODES=2"
  fi
  [ "$PLACE" = node ] || return 0
  [ -n "${NODES:-}" ] || refuse "MASTER_ADDR=$MASTER_ADDR is where several nodes meet, and how many is missing, as in" \
    "NODES=2 (NODES=1 for this one alone)"
  [ "$NODES" != 1 ] || return 0
  [ -n "${NODE_RANK:-}" ] || refuse "NODE_RANK is missing: NODE_RANK=0 on $MASTER_ADDR, NODE_RANK=1, 2, ... on the others"
  [[ $NODES =~ [[:space:]] ]] || [ "$NODE_RANK" -lt "$NODES" ] ||
    refuse "NODE_RANK=$NODE_RANK must be below NODES=$NODES: the first node has 0"
  ! is_sweep || [ -n "${RUN_DIR:-}" ] ||
    refuse "a sweep on several nodes needs a folder that all of them see, as in RUN_DIR=/shared/sweep"
}
