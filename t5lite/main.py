"""The command line: `t5lite COMMAND --flags`. An error is one line and an exit code."""

from collections.abc import Sequence
import re
import sys
import traceback

from absl import flags

from t5lite import commands
from t5lite import errors


def usage() -> str:
  """Returns the list of commands."""
  lines = [f'  {name:<10} {command.summary}' for name, command in commands.COMMANDS.items()]
  return '\n'.join(['usage: t5lite COMMAND --flags', '', *lines, '', 't5lite COMMAND --help'])


def parse(name: str, arguments: Sequence[str]) -> flags.FlagValues:
  """Returns the parsed flags of a command.

  Raises:
    ConfigError: a flag is unknown, missing or has a wrong value.
  """
  f = flags.FlagValues()
  commands.COMMANDS[name].define(f)
  flags.DEFINE_boolean('debug', False, 'show the traceback of an error', flag_values=f)
  remedy = f'see t5lite {name} --help'
  try:
    rest = f([name, *arguments])[1:]
  except flags.Error as error:
    if missing := re.search('Flag (--.*) must have a value other than None', str(error)):
      raise errors.ConfigError('missing flag', missing[1], remedy) from error
    raise errors.ConfigError('wrong flag', error, remedy) from error
  if rest:
    raise errors.ConfigError('unexpected argument', rest[0], remedy)
  return f


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command; returns its exit code. An error is one line on stderr."""
  code = _run(arguments)
  if 'jax' in sys.modules:
    from t5lite import processes

    processes.leave(code)
  return code


def _run(arguments: Sequence[str] | None) -> int:
  name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ['--help']
  if name in ('--help', '-h', 'help'):
    print(usage())
    return 0
  debug = '--debug' in rest
  try:
    if name not in commands.COMMANDS:
      remedy = f'use one of {", ".join(commands.COMMANDS)}'
      raise errors.ConfigError('unknown command', name, remedy)
    if {'--help', '-h', '-help'} & set(rest):
      f = flags.FlagValues()
      commands.COMMANDS[name].define(f)
      print(f't5lite {name}: {commands.COMMANDS[name].summary}\n{f.get_help()}')
      return 0
    # grain's worker processes ask absl for its flags, of which we use none.
    flags.FLAGS.mark_as_parsed()
    commands.COMMANDS[name].run(parse(name, rest))
    return 0
  except errors.UserError as error:
    return fail(str(error), error.code, debug)
  except KeyboardInterrupt:
    return fail('interrupted: Ctrl-C: run the same command to go on', 130, debug)
  except Exception as error:  # noqa: BLE001
    # The last resort: nothing goes on from here, and a user gets a line, not a traceback.
    what = ' '.join(f'{type(error).__name__} {error}'.split())
    return fail(f'internal error: {what[:300]}: run again with --debug and report it', 1, debug)


def fail(message: str, code: int, debug: bool) -> int:
  """Prints the one line, behind the traceback if asked for; returns the code."""
  if debug:
    traceback.print_exc()
  print(f't5lite: {message}', file=sys.stderr)
  return code
