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

all=(
  classify_debian_section translate_en_de_debian summarize_debian dialogue_chitchat
  qa_quiz_closed_book
)
declare -A shape=(  # of a T5: steps, tokens of the inputs and of the targets
  [classify_debian_section]='600 192 8' [translate_en_de_debian]='1500 128 160'
  [summarize_debian]='600 192 32' [dialogue_chitchat]='2000 192 64' [qa_quiz_closed_book]='600 256 128'
  [all]='5100 256 128'
)
declare -A gpt_steps=([dialogue_chitchat]=1600)  # 600 of the others

# tune MODEL NAME INIT SOURCE STEPS [FLAG...]: a run that begins with INIT ('' for random parameters).
tune() {
  echo "== $2"
  t5lite train --config="configs/starter_$1.py" --workdir="$runs/$2" --set=init_from="$3" \
    --set=data.source="$4" --set=data.examples=documents --set=train.steps="$5" \
    --set=train.sample_every=0 --set=eval.every=0 --set=checkpoint.every=200 \
    --set=checkpoint.keep_last=1 "${@:6}"
}

# tune_t5 NAME INIT SOURCE SHAPE [FLAG...]
tune_t5() {
  local steps inputs targets
  read -r steps inputs targets <<<"$4"
  tune t5 "$1" "$2" "$3" "$steps" --set=data.input_length="$inputs" "$ours" "${falling[@]}" \
    --set=data.target_length="$targets" --set=data.batch_size=16 --set=optim.learning_rate=2e-3 "${@:5}"
}

# judge NAME TASK...: evaluates what is not evaluated yet.
judge() {
  local task name=$1 how
  for task in "${@:2}"; do
    how=()  # greedily; a dialogue at least as long as Roller et al. 2020 has it, free to take up its words
    if [[ $task == dialogue* ]]; then
      how=(--repetition_penalty=1.2 --nopenalize_prompt --min_tokens=20)
    fi
    if [[ ! -f $runs/$name/tasks/$task-test.json ]]; then
      t5lite evaluate --workdir="$runs/$name" --tasks="$task" "${how[@]}"
    fi
  done
}

# T5 and GPT: one vocabulary for the text and for what the tasks write, German among it.
if [[ ! -f $runs/tokenizer.model ]]; then
  t5lite tokenizer --input="$text" "${all[@]/#/--input=task:}" --vocab_size=8192 \
    --output="$runs/tokenizer.model"
fi
ours=--set=data.tokenizer=$(realpath "$runs/tokenizer.model")
falling=(--set=optim.schedule=linear --set=optim.final_ratio=0.0)

t5lite train --config=configs/starter_bert.py --workdir="$runs/bert" --set=data.source="text:$text"
t5lite train --config=configs/starter_gpt.py --workdir="$runs/gpt" --set=data.source="text:$text" "$ours"
t5lite train --config=configs/starter_t5.py --workdir="$runs/t5" --set=data.source="text:$text" "$ours" \
  --set=init_from="$runs/gpt"
# And the GPT on by text infilling: so short a look at text does not teach it to copy, but that does.
t5lite train --config=configs/starter_gpt.py --workdir="$runs/gpt-infilling" "$ours" \
  --set=data.source="text:$text" --set=init_from="$runs/gpt" --set=objective.name=text_infilling \
  --set=objective.noise_density=0.3 --set=data.batch_size=40 --set=data.input_length=128 \
  --set=optim.learning_rate=2e-3 --set=optim.warmup_steps=50 --set=train.steps=500

for init in pretrained scratch; do
  from() { if [[ $init == pretrained ]]; then echo "$runs/$1"; fi; }
  task=classify_debian_section
  tune bert "bert-$init-$task" "$(from bert)" "task:$task" 1200 --set=data.batch_size=64 \
    --set=optim.learning_rate=1e-3 --set=model.num_labels=31 --set=model.pooler=True
  judge "bert-$init-$task" "$task"
  for task in "${all[@]}"; do
    tune_t5 "t5-$init-$task" "$(from t5)" "task:$task" "${shape[$task]}"
    judge "t5-$init-$task" "$task"
    tune gpt "gpt-$init-$task" "$(from gpt-infilling)" "task:$task" "${gpt_steps[$task]:-600}" \
      "$ours" "${falling[@]}" --set=optim.learning_rate=2e-3
    judge "gpt-$init-$task" "$task"
  done
done

# All five at once: rates in proportion to sizes, none above 20,000 rows.
mixture=$(printf "('task:%s', 1.0)," "${all[@]}")
tune_t5 t5-all "$runs/t5" "($mixture)" "${shape[all]}" --set=data.temperature=1.0 \
  --set=data.most_examples=20000
judge t5-all "${all[@]}"

# ROUGE says little of dialogues: which of ten replies is the one that was given?
python tests/benchmarks/dialogue_choice.py "$runs"/{t5,gpt}-{pretrained,scratch}-dialogue_chitchat "$runs/t5-all"
python tests/benchmarks/task_table.py "$runs"
