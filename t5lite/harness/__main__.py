"""`python -m t5lite.harness`: lm-eval's command line, where `--model t5lite` reads a workdir."""

import os
import sys

from t5lite import backend
from t5lite import errors
from t5lite import main as main_lib


def main() -> int:
  """Runs lm-eval with the flags of this process; returns the exit code."""
  backend.start()
  # lm-eval's processes for standard errors would be forks of one in which JAX's threads run.
  os.environ.setdefault('DISABLE_MULTIPROC', '1')
  try:
    from t5lite.harness import workdir

    workdir.register()
    from lm_eval import __main__ as lm_eval_main

    lm_eval_main.cli_evaluate()
  except errors.UserError as error:
    return main_lib.fail(str(error), error.code, debug=False)
  except ValueError as error:
    if not str(error).startswith('Tasks not found'):
      raise
    return main_lib.fail(f'{error}', errors.ConfigError.code, debug=False)
  return 0


if __name__ == '__main__':
  sys.exit(main())
