#!/usr/bin/env bash
# Checks everything: format, lint, types and tests. Installs what that needs.
#
#   bash launch/test.sh                       all of it but the tests beside torch
#   bash launch/test.sh -m 'not slow'         arguments go to pytest
#   bash launch/test.sh parity                those, in .venv-parity
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source launch/environment.sh
if [[ ${1:-} == parity ]]; then
  T5LITE_VENV=${T5LITE_VENV:-.venv-parity}
  enter_environment parity
  exec python -m pytest -m parity tests/parity "${@:2}"
fi
enter_environment dev

python -m ruff format --check
python -m ruff check
python -m pyright
python -m pytest --numprocesses=2 --dist=worksteal "$@"
