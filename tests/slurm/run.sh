#!/usr/bin/env bash
# Tests exp.sh on a real SLURM: as root, installs Debian's slurm-wlm and munge where they are missing, starts a controller
# and two nodes on this host, and stops them at the end. Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tools/setup_environment.sh
if ! command -v slurmctld >/dev/null; then
  [ "$(id -u)" = 0 ] || fail "installing SLURM needs root; install slurm-wlm and munge, or run this as root"
  command -v apt-get >/dev/null || fail "there is no apt-get; install SLURM and munge, then run this again"
  apt-get update
  # The packages' own services need not start: the tests start theirs.
  DEBIAN_FRONTEND=noninteractive apt-get install -y slurm-wlm munge
fi
use_environment dev
python -m pytest tests/slurm --all -s -v "$@"
