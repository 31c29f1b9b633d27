#!/usr/bin/env bash
# Sets the environment up, checks lint, types, import rules and shell scripts, and runs the tests.
#
#   bash tests/run.sh                      # everything but what is marked slow
#   bash tests/run.sh --all                # also what is marked slow
#   bash tests/run.sh tests/harness -k hang   # further arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup_environment.sh
use_environment dev

failed=()

# check NAME COMMAND...: runs one check; a failure is remembered, and the rest goes on.
check() {
  local name=$1
  shift
  say "$name"
  "$@" || failed+=("$name")
}

check "lint" ruff check .
check "format" ruff format --check .
check "types" mypy
check "import rules" lint-imports --no-logo
mapfile -t scripts < <(find . \( -name .venv -o -name runs -o -name data \) -prune -o -name '*.sh' -print)
check "shell scripts" shellcheck --external-sources .ci/run "${scripts[@]}"

say "tests"
status=0
python -m pytest "$@" || status=$?
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed before the tests: %s\n' "${failed[*]}"
  status=1
fi
exit "$status"
