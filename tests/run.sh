#!/usr/bin/env bash
# Sets the environment up, checks lint, types, import rules and shell scripts, and runs the tests.
#
#   bash tests/run.sh                      # everything but what is marked slow
#   bash tests/run.sh --all                # also what is marked slow
#   bash tests/run.sh tests/harness -k hang   # further arguments go to pytest
#
# All tests run on several workers (tests/conftest.py says how many); tests that arguments choose run one after another,
# unless -n is among the arguments.
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

# choose_workers PYTEST-ARGUMENTS...: sets `workers`, pytest's options for all tests or for a choice of them.
choose_workers() {
  local argument
  workers=(-n auto --dist worksteal)
  for argument in "$@"; do
    case $argument in
      -x | -q | -v | -vv) ;;
      --all) workers=(-n auto --dist loadfile) ;; # the tests of tests/slurm share a cluster
      *)
        workers=()
        return
        ;;
    esac
  done
}

# The first time types take a minute or two: they are checked beside the tests, and told after them.
types=$(mktemp)
mypy >"$types" 2>&1 &
types_check=$!
trap 'kill "$types_check" 2>/dev/null || true; rm -f "$types"' EXIT

check "lint" ruff check .
check "format" ruff format --check .
check "import rules" lint-imports --no-logo
mapfile -t scripts < <(find . \( -name .venv -o -name runs -o -name data \) -prune -o -name '*.sh' -print)
check "shell scripts" shellcheck --external-sources .ci/run "${scripts[@]}"

say "tests"
status=0
choose_workers "$@"
python -m pytest "${workers[@]}" "$@" || status=$?
say "types"
wait "$types_check" || failed+=("types")
cat "$types"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed beside the tests: %s\n' "${failed[*]}"
  status=1
fi
exit "$status"
