# shellcheck shell=bash
# Sourced from the root of the checkout by quickstart.sh and test.sh: makes the virtual environment with
# t5lite and the pinned versions of what it needs, and puts it first in PATH. A later run keeps it and
# installs only when setup.py or the constraints have changed.
#
#   PYTHON=python3.12       the Python to make it with, in place of the first that will do in PATH
#   T5LITE_VENV=DIRECTORY   where to make it, in place of .venv

# Says on stderr WHAT: WHERE: HOW TO MEND IT; leaves with EX_UNAVAILABLE.
fail() {
  echo "t5lite: $1: $2: $3" >&2
  exit 69
}

minor_version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Prints the first Python that is recent and can make environments. Each is tried: a name in PATH may be a
# stub that only fails (pyenv's), and Debian's Python has no ensurepip until python3-venv is installed.
find_python() {
  local python recent='' candidates=(python3.13 python3.12 python3.11 python3)
  if [[ ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
  for python in "${candidates[@]}"; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    recent=$python
    "$python" -c 'import ensurepip, venv' 2>/dev/null || continue
    echo "$python"
    return
  done
  if [[ $recent ]]; then
    fail 'this Python cannot make virtual environments' "$recent" \
      "install its venv module (Debian, Ubuntu: apt-get install python3-venv) or set PYTHON to another one"
  fi
  fail 'no Python 3.11 or newer' "${PYTHON:-PATH}" "install one, or set PYTHON to where it is"
}

# make_environment VENV: leaves a working one as it is, mends a broken one.
make_environment() {
  local python venv=$1
  if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    if [[ ${PYTHON:-} && $(minor_version "$PYTHON") != $(minor_version "$venv/bin/python") ]]; then
      fail "the environment has another Python than PYTHON=$PYTHON" "$venv" \
        'remove it, or set T5LITE_VENV to another directory'
    fi
    return
  fi
  python=$(find_python)
  echo "Making the virtual environment $venv with $("$python" --version)."
  if [[ -f $venv/pyvenv.cfg ]]; then
    "$python" -m venv --clear "$venv"
  else
    "$python" -m venv "$venv"
  fi
}

# enter_environment [EXTRA]: installs t5lite, with that extra of setup.py, and uses it from here on.
enter_environment() {
  local extra=${1:-} venv=${T5LITE_VENV:-.venv} constraints=launch/constraints-3.12.txt stamp state
  make_environment "$venv"
  if [[ $(minor_version "$venv/bin/python") == 3.11 ]]; then
    constraints=launch/constraints-3.11.txt
  fi
  stamp=$venv/installed-t5lite${extra:+-$extra}
  state="$PWD $(cat setup.py "$constraints" | cksum)"
  if [[ ! -f $stamp || $(<"$stamp") != "$state" ]]; then
    echo "Installing t5lite and the versions of $constraints: minutes the first time."
    # torch names its own versions of NVIDIA's libraries, and jax there is the CPU's.
    local pins=$constraints
    if [[ $extra == parity ]]; then
      pins=$venv/constraints.txt
      grep -v '^nvidia-' "$constraints" >"$pins"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --constraint "$pins" --editable ".${extra:+[$extra]}"
    echo "$state" >"$stamp"
  fi
  PATH=$(cd "$venv/bin" && pwd):$PATH
}
