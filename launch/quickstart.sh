#!/usr/bin/env bash
# Trains a tokenizer and a tiny T5 (or BERT, or GPT) on the text that ships with t5lite, evaluates it,
# lets it write, and draws the curves: ends within 10 minutes on 2 CPU cores, install included.
# A second run goes on where the first one stopped.
#
#   bash launch/quickstart.sh [t5|bert|gpt]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

family=${1:-t5}
case $#:$family in
  [01]:t5) use=(fill '--text=The President of the United <extra_id_0> has the honor to <extra_id_1> to Congress.') ;;
  [01]:bert) use=(fill '--text=The President of the United [MASK] has the honor to [MASK] to Congress.') ;;
  [01]:gpt) use=(generate '--prompt=The President of the United' --sampler=sample --temperature=0.7) ;;
  *)
    echo 'usage: bash launch/quickstart.sh [t5|bert|gpt]' >&2
    exit 64
    ;;
esac

source launch/environment.sh
enter_environment

# Says what comes next, then does it, as a reader could type it.
step() {
  local word
  printf '\n%s\n$ t5lite' "$1"
  shift
  for word in "$@"; do
    case $word in
      *[!a-zA-Z0-9_./=-]*) printf " '%s'" "$word" ;;
      *) printf ' %s' "$word" ;;
    esac
  done
  printf '\n'
  t5lite "$@"
}

tokenizer=$PWD/runs/quickstart.model
workdir=runs/quickstart_$family
if [[ ! -f $tokenizer ]]; then
  step '1. Train a tokenizer' tokenizer --input=corpus --vocab_size=8192 --output="$tokenizer"
fi
step '2. Pre-train a tiny model' train --config="configs/tiny_$family.py" --workdir="$workdir" \
  --set=data.tokenizer="$tokenizer"
step '3. Evaluate it on text that it has not seen' evaluate --workdir="$workdir"
step '4. Let it write' "${use[@]}" --workdir="$workdir"
step '5. Draw its curves' report --workdir="$workdir"
printf '\nDone in %d min %02d s. Open %s/report.html\n' $((SECONDS / 60)) $((SECONDS % 60)) "$PWD/$workdir"
