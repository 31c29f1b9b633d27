# shellcheck shell=bash
# Sourced by exp.sh and tests/run.sh, from the repository's root: afterwards `python` has what is
# needed.
#
#   source tools/setup_environment.sh
#   use_environment train      # what training needs
#   use_environment dev        # and what the tests need
#
# The current Python is used as it is where it has what setup.py asks for (a GPU container, an activated
# environment); PYTHON names another one. Otherwise the folder .venv is made here, once, and gets exactly what
# requirements.txt pins. Where packages come from is pip's own configuration: PIP_INDEX_URL,
# PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS or pip.conf.

# say MESSAGE...: one line of progress, bold on a terminal.
say() {
  if [ -t 1 ]; then
    printf '\033[1m== %s\033[0m\n' "$*"
  else
    printf '== %s\n' "$*"
  fi
}

# fail MESSAGE...: ends the script.
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# use_environment train|dev: puts a complete Python first on PATH, as `python`.
use_environment() {
  local -a ranges=() pins=(--pins requirements.txt) files=(-r requirements.txt)
  if [ "$1" = dev ]; then
    ranges=(--extra dev)
    pins+=(--pins tests/requirements.txt)
    files+=(-r tests/requirements.txt)
  fi
  local current
  current=$(find_python)
  if "$current" tools/check_environment.py "${ranges[@]}" >/dev/null; then
    lead_with "$current"
  else
    exec 8<requirements.txt # one at a time, where several nodes share this folder
    ! command -v flock >/dev/null || flock 8
    if ! { [ -x .venv/bin/python ] && .venv/bin/python tools/check_environment.py "${pins[@]}" >/dev/null; }; then
      make_environment "$current" "${files[@]}"
    fi
    exec 8<&-
    lead_with "$PWD/.venv/bin/python"
  fi
  say "Python: $(python -c 'import sys, platform; print(platform.python_version(), "in", sys.prefix)')"
}

# find_python: prints the Python to start from.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "Python 3.10 or newer was not found; install it, or name it: PYTHON=/path/to/python3 bash $0"
}

# lead_with PYTHON: `python` and `PYTHON` mean this one from here on, and its commands (torchrun) come first.
lead_with() {
  PYTHON=$1
  PATH="$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH"
  export PYTHON PATH
}
python() { "$PYTHON" "$@"; }

# make_environment PYTHON PIP-ARGUMENTS...: makes .venv and installs into it.
make_environment() {
  local base=$1
  shift
  say "installing what is pinned into .venv (the first time takes minutes, then never again)"
  hint_at_cpu_build "$base"
  # Debian's bare python3 has no ensurepip: then the system's pip, if there is one, fills the new environment.
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$base" -m venv .venv 2>/dev/null || {
    "$base" -m venv --clear --without-pip .venv && "$base" -m pip --python .venv/bin/python install pip
  } || fail "$base can make no virtual environment: install python3-venv, or activate an environment with pip"
  .venv/bin/python -m pip install --no-compile "$@" || fail "pip could not install what is pinned: see its message above"
  # All cores compile what pip would on one; a few files, meant as templates or for another Python, are no code.
  .venv/bin/python -m compileall -qq -j 0 .venv/lib || true
}

# hint_at_cpu_build PYTHON: on a machine without a GPU, says how to avoid gigabytes of CUDA libraries.
hint_at_cpu_build() {
  nvidia-smi -L >/dev/null 2>&1 && return
  [ -n "${PIP_INDEX_URL:-}${PIP_EXTRA_INDEX_URL:-}${PIP_FIND_LINKS:-}" ] && return
  "$1" -m pip config list 2>/dev/null | grep -qE 'index-url|find-links' && return
  cat <<'HINT'
No NVIDIA GPU was found. On Linux pip's default index holds the CUDA build of torch: it works here too, but brings
several GB. For the small CPU build, press Ctrl-C, set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU wheels (the
address is on PyTorch's "Get Started" page, under Pip and CPU), and start again.
HINT
}
