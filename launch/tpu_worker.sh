#!/usr/bin/env bash
# The part of tpu_vm.sh that runs on each worker of the slice, in ~/t5lite there:
#
#   install             makes the environment of t5lite
#   start ARGUMENTS     `t5lite train` in a session of its own, which outlives the ssh connection
#   status              says in a line what became of it
#   stop                SIGTERM: t5lite saves everything and ends
#
# Its files: train.log, what t5lite printed; train.exit, its last exit code; train.lock, held while
# it runs, by its children too; train.pid, whom to tell to stop.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# fail CODE WHAT WHERE REMEDY
fail() {
  echo "t5lite: $2: $3: $4" >&2
  exit "$1"
}

is_running() {
  ! flock --nonblock train.lock true
}

# Google's images have Ubuntu 22.04, whose Python is 3.10.
install() {
  source launch/environment.sh
  if [[ ! ${PYTHON:-} && ! -x .venv/bin/python ]] && ! (find_python) >/dev/null 2>&1; then
    python3 -m pip install --quiet --user uv
    python3 -m uv python install --quiet 3.12
    PYTHON=$(python3 -m uv python find 3.12)
  fi
  enter_environment tpu
}

start() {
  is_running && fail 64 'a run is in progress' "$(hostname)" 'wait for its end, or stop it: bash launch/tpu_vm.sh stop'
  rm -f train.exit
  setsid --fork bash launch/tpu_worker.sh supervise "$@" </dev/null >>train.log 2>&1
}

# Runs t5lite again when it was preempted (75), and a few times in a row when a process was lost: 137
# is one that was killed; its peers say 69, or are ended by jax.distributed, 134. All else stays ended.
supervise() {
  local code=0 lost=0 stopping='' child=''
  exec 9>train.lock
  flock --nonblock 9 || fail 64 'a run is in progress' "$(hostname)" 'stop it first'
  trap 'stopping=yes; kill -TERM $child 2>/dev/null || :' TERM
  echo $$ >train.pid
  while [[ ! $stopping ]]; do
    .venv/bin/t5lite train --coordinator=auto "$@" &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
      wait "$child" || :  # a signal ends the wait, not the child
    done
    code=0
    wait "$child" || code=$?
    child=''
    echo "$code" >train.exit
    case $code in
      75) lost=0 ;;
      69 | 134 | 137) ((++lost <= 3)) || break ;;
      *) break ;;
    esac
    sleep 10
  done
  exit "$code"
}

status() {
  if is_running; then
    echo "$(hostname): running: $(tail -n 1 train.log)"
  elif [[ -f train.exit ]]; then
    echo "$(hostname): ended with exit code $(<train.exit): $(tail -n 1 train.log)"
  else
    echo "$(hostname): not started"
  fi
}

stop() {
  is_running || fail 64 'nothing runs' "$(hostname)" 'start it: bash launch/tpu_vm.sh run'
  kill -TERM "$(<train.pid)"
}

"$@"
