#!/usr/bin/env bash
# Pre-trains a small T5, BERT and GPT, fine-tunes each on five tasks, the same models without pre-training
# too, and one T5 on all tasks at once; then prints the table of docs/tasks.md. Hours on two cores. Run it
# again and it goes on where it stopped.
#
#   bash launch/starter_tasks.sh TEXT TASKS [RUNS]
#
#   TEXT    text to pre-train on: a file as of the source text:TEXT
#   TASKS   directory of the five files that t5lite/tasks/starter.py names
#   RUNS    where the runs are kept; runs/starter by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
if [[ $# -lt 2 ]]; then
  echo "t5lite: missing arguments: $0 $*: give TEXT and TASKS, as the head of this script says" >&2
  exit 64
fi
text=$(realpath "$1") tasks=$(realpath "$2") runs=${3:-runs/starter}
enter_environment tasks
export T5LITE_TASKS=$tasks
mkdir -p "$runs"

generative=(translate_en_de_debian summarize_debian dialogue_chitchat qa_quiz_closed_book)
all=(classify_debian_section "${generative[@]}")

# tune MODEL NAME INIT SOURCE STEPS [FLAG...]: a run that begins with INIT ('' for random parameters).
tune() {
  local model=$1 name=$2 init=$3 source=$4 steps=$5
  echo "== $name"
  t5lite train --config="configs/starter_$model.py" --workdir="$runs/$name" --set=init_from="$init" \
    --set=data.source="$source" --set=data.examples=documents --set=data.batch_size=32 \
    --set=train.steps="$steps" --set=train.sample_every=0 --set=eval.every=0 --set=checkpoint.every=200 \
    --set=checkpoint.keep_last=1 "${@:6}"
}

# judge NAME TASK...: evaluates what is not evaluated yet.
judge() {
  local task name=$1
  for task in "${@:2}"; do
    if [[ ! -f $runs/$name/tasks/$task-test.json ]]; then
      t5lite evaluate --workdir="$runs/$name" --tasks="$task"
    fi
  done
}

for model in bert t5 gpt; do
  t5lite train --config="configs/starter_$model.py" --workdir="$runs/$model" --set=data.source="text:$text"
done

for init in pretrained scratch; do
  from() { if [[ $init == pretrained ]]; then echo "$runs/$1"; fi; }
  task=classify_debian_section
  tune bert "bert-$init-$task" "$(from bert)" "task:$task" 1200 --set=data.batch_size=64 \
    --set=optim.learning_rate=1e-3 --set=model.num_labels=31 --set=model.pooler=True
  judge "bert-$init-$task" "$task"
  for task in "${all[@]}"; do
    tune t5 "t5-$init-$task" "$(from t5)" "task:$task" 600 --set=data.target_length=64 \
      --set=optim.learning_rate=0.01
    judge "t5-$init-$task" "$task"
    tune gpt "gpt-$init-$task" "$(from gpt)" "task:$task" 600 --set=data.input_length=192 \
      --set=optim.learning_rate=1e-3
    judge "gpt-$init-$task" "$task"
  done
done

# All five at once: rates in proportion to sizes, none above 20,000 examples.
mixture=$(printf "('task:%s', 1.0)," "${all[@]}")
tune t5 t5-all "$runs/t5" "($mixture)" 3000 --set=data.target_length=64 --set=optim.learning_rate=0.01 \
  --set=data.temperature=1.0 --set=data.most_examples=20000
judge t5-all "${all[@]}"

python tests/benchmarks/task_table.py "$runs"
