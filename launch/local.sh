#!/usr/bin/env bash
# Runs `t5lite train` as N processes of this machine: what a cluster does, small. Its exit code is that of
# the process that failed first; the others are then ended.
#
#   bash launch/local.sh N --config=configs/x.py --workdir=DIR ...
set -euo pipefail

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ || ${2:-} != --* ]]; then
  echo 'usage: bash launch/local.sh N --config=FILE --workdir=DIR ...' >&2
  exit 64
fi
num_processes=$1
shift

port=$(python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
left=()
for ((id = 0; id < num_processes; id++)); do
  python -m t5lite train "$@" \
    --coordinator="127.0.0.1:$port" --num_processes="$num_processes" --process_id="$id" &
  left[id]=$!
done
# All save and end with 75.
trap 'kill -TERM "${left[@]}" || true' TERM INT

# Looks again and again: bash 3 cannot wait for whichever ends first.
code=0 last=0
while ((${#left[@]})); do
  sleep 0.2
  for id in "${!left[@]}"; do
    if kill -0 "${left[id]}" 2>/dev/null; then continue; fi
    status=0
    { wait "${left[id]}" || status=$?; } 2>/dev/null # the shell's own report of a signal
    unset "left[id]"
    if ((status == 0)); then continue; fi
    echo "process $id of $num_processes ended with exit code $status" >&2
    # What a process says of itself counts more than that others broke without it.
    if ((code == 0 || ((code < 64 || code > 127) && status >= 64 && status <= 127))); then code=$status; fi
    last=${last/#0/$((SECONDS + 10))}
  done
  # The others wait for the one that is gone.
  if ((last && SECONDS > last && ${#left[@]})); then kill -KILL "${left[@]}"; fi
done
exit "$code"
