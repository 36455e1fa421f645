#!/usr/bin/env bash
# Trains on a slice of Cloud TPU VMs, of one host or of many, by Google's gcloud command:
# docs/launching.md tells how. `bash launch/tpu_vm.sh --help` prints the text below.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: bash launch/tpu_vm.sh VERB --name=NAME --zone=ZONE [flags] [-- arguments]

  create   make the slice; arguments after -- go to gcloud (--network=..., --data-disk=...)
  copy     bring this checkout to all workers and install t5lite there
  run      start `t5lite train` on all workers; its arguments come after --
  logs     print and follow what a worker writes
  status   say how the slice and its workers are
  stop     let t5lite save everything and end, on all workers
  delete   delete the slice and all that its disks hold

  --name=NAME        of the slice; default $TPU_NAME
  --zone=ZONE        of the slice; default $TPU_ZONE
  --project=PROJECT  default: gcloud's
  --type=TYPE        create: v5litepod-16, v6e-32, ...; default $TPU_TYPE
  --version=VERSION  create: software of the VM; default: what Google names for the type
  --spot             create: cheaper, may be taken away
  --queued           create, status, delete: as a queued resource of the same name
  --worker=N         logs: which worker; default 0
  --dry-run          print the gcloud commands and run none
TEXT
}

# fail CODE WHAT WHERE REMEDY
fail() {
  echo "t5lite: $2: $3: $4" >&2
  exit "$1"
}

# A command as a line that a shell reads as the same words.
quoted() {
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}

gcloud() {
  local code=0
  if [[ $dry_run ]]; then
    quoted gcloud "$@"
    return
  fi
  command gcloud "$@" || code=$?
  if ((code)); then
    fail 69 'gcloud failed' "exit code $code of gcloud ${*:1:4}" 'see its message above'
  fi
}

# on_workers WHICH COMMAND: runs a line of shell on one worker, or on all of them side by side.
on_workers() {
  gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker="$1" --command="$2"
}

default_version() {
  case $1 in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

create() {
  [[ $type ]] || fail 64 'missing flag' --type 'say what to create, such as --type=v5litepod-16'
  version=${version:-$(default_version "$type")}
  if [[ $queued ]]; then
    gcloud compute tpus queued-resources create "$name" --node-id="$name" "${place[@]}" \
      --accelerator-type="$type" --runtime-version="$version" ${spot:+--spot} "$@"
  else
    gcloud compute tpus tpu-vm create "$name" "${place[@]}" \
      --accelerator-type="$type" --version="$version" ${spot:+--spot} "$@"
  fi
}

# One archive and not the folders: a run's leftovers stay here, and one file is quick to send.
copy() {
  local busy='t5lite: a run is in progress: t5lite/train.lock: stop it first: bash launch/tpu_vm.sh stop'
  archive=t5lite.tar.gz
  if [[ ! $dry_run ]]; then
    archive=$(mktemp -d)/t5lite.tar.gz
    trap 'rm -r "${archive%/*}"' EXIT
    tar -czf "$archive" --exclude=__pycache__ \
      setup.py pyproject.toml README.md LICENSE configs launch t5lite
  fi
  gcloud compute tpus tpu-vm scp "$archive" "$name:" "${place[@]}" --worker=all
  on_workers all "mkdir -p t5lite && cd t5lite && \
{ flock --nonblock train.lock rm -rf configs launch t5lite || { echo '$busy' >&2; exit 64; }; } && \
tar -xzf ../t5lite.tar.gz && bash launch/tpu_worker.sh install"
}

run() {
  (($#)) || fail 64 'missing arguments' run 'give those of t5lite train after --, such as -- --config=configs/t5_base.py'
  on_workers all "bash t5lite/launch/tpu_worker.sh start $(quoted "$@")"
}

# A slice that is not there has no workers to ask.
status() {
  local state resource=tpu-vm format='value(state)' there=READY
  if [[ $queued ]]; then
    resource=queued-resources format='value(state.state)' there=ACTIVE
  fi
  state=$(gcloud compute tpus "$resource" describe "$name" "${place[@]}" --format="$format")
  echo "$state"
  case $dry_run$state in
    "$there" | yes*)
      on_workers all 'if [ -e t5lite/launch ]; then bash t5lite/launch/tpu_worker.sh status
else echo "$(hostname): nothing copied yet"; fi' ;;
    SUSPEND* | PREEMPTED | TERMINATED | FAILED)
      echo 'It is gone: delete, create, copy and run it again, and training goes on where it was saved.' ;;
  esac
}

delete() {
  if [[ $queued ]]; then
    gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
  else
    gcloud compute tpus tpu-vm delete "$name" "${place[@]}" --quiet
  fi
}

verb=${1:---help}
(($#)) && shift
case $verb in
  create | copy | run | logs | status | stop | delete) ;;
  --help | -h) usage && exit ;;
  *) fail 64 'unknown verb' "$verb" 'see bash launch/tpu_vm.sh --help' ;;
esac

name=${TPU_NAME:-} zone=${TPU_ZONE:-} type=${TPU_TYPE:-} version='' project='' worker=0
spot='' queued='' dry_run=''
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --worker=*) worker=${1#*=} ;;
    --spot) spot=yes ;;
    --queued) queued=yes ;;
    --dry-run) dry_run=yes ;;
    --) shift && break ;;
    *) fail 64 'wrong flag' "$1" 'see bash launch/tpu_vm.sh --help; arguments for t5lite and gcloud come after --' ;;
  esac
  shift
done
[[ $name ]] || fail 64 'missing flag' --name 'say which slice, or set TPU_NAME'
[[ $zone ]] || fail 64 'missing flag' --zone 'say where the slice is, or set TPU_ZONE'
case $verb:$# in
  create:* | run:* | *:0) ;;
  *) fail 64 'unexpected argument' "$1" "$verb takes none" ;;
esac
[[ $dry_run ]] || type -P gcloud >/dev/null ||
  fail 69 'no gcloud' PATH 'install the Google Cloud CLI and run gcloud init'
place=(--zone="$zone" ${project:+--project="$project"})

case $verb in
  logs) on_workers "$worker" 'tail -n 100 -F t5lite/train.log' ;;
  stop) on_workers all 'bash t5lite/launch/tpu_worker.sh stop' ;;
  *) "$verb" "$@" ;;
esac
