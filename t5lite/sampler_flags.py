"""The flags that say how tokens are picked, of every command that lets a model write."""

from collections.abc import Sequence

from absl import flags

from t5lite import errors

Flags = flags.FlagValues

# Of every sampler.
PROCESSING = ('repetition_penalty', 'penalize_prompt', 'no_repeat_ngram_size', 'min_tokens')

# The sampler that a flag is of; where it is not that one, the flag would change nothing.
OF_SAMPLER = {
  **dict.fromkeys(('temperature', 'top_k', 'top_p', 'min_p', 'seed'), 'sample'),
  **dict.fromkeys(('num_beams', 'length_penalty', 'early_stopping'), 'beam'),
}


def define(f: Flags, kinds: Sequence[str]) -> None:
  """Defines --sampler with the flags of these kinds."""
  flags.DEFINE_enum('sampler', 'greedy', kinds, 'how tokens are picked', flag_values=f)
  help = 'divides the logits of tokens that are there already; 1: as they are'
  flags.DEFINE_float('repetition_penalty', 1.0, help, flag_values=f)
  help = "whether that is of a GPT's prompt, too; of a T5's inputs it never is"
  flags.DEFINE_boolean('penalize_prompt', True, help, flag_values=f)
  help = 'so many tokens in a row are not written twice; 0: any'
  flags.DEFINE_integer('no_repeat_ngram_size', 0, help, flag_values=f, lower_bound=0)
  help = 'new tokens before which the end of text is not picked'
  flags.DEFINE_integer('min_tokens', 0, help, flag_values=f, lower_bound=0)
  flags.DEFINE_float('temperature', 1.0, 'of sample', flag_values=f, lower_bound=1e-3)
  flags.DEFINE_integer('top_k', 0, 'of sample; 0: all tokens', flag_values=f, lower_bound=0)
  flags.DEFINE_float('top_p', 1.0, 'of sample', flag_values=f, lower_bound=0, upper_bound=1)
  help = "of sample: no token below this share of the likeliest one's probability"
  flags.DEFINE_float('min_p', 0.0, help, flag_values=f, lower_bound=0, upper_bound=1)
  most = 2**63 - 1  # of a key
  help = 'of sample'
  flags.DEFINE_integer('seed', 0, help, flag_values=f, lower_bound=0, upper_bound=most)
  if 'beam' in kinds:
    flags.DEFINE_integer('num_beams', 4, 'of beam', flag_values=f, lower_bound=1)
    help = 'of beam: above 0 favours long texts, below 0 short ones'
    flags.DEFINE_float('length_penalty', 1.0, help, flag_values=f)
    help = 'of beam: end with as many texts as beams'
    flags.DEFINE_boolean('early_stopping', False, help, flag_values=f)


def check(f: Flags) -> None:
  """Raises ConfigError for a flag that would change nothing, as one of another sampler."""
  for name, sampler in OF_SAMPLER.items():
    if name in f and f[name].present and f.sampler != sampler:
      where = f'--{name}={f[name].value} with --sampler={f.sampler}'
      remedy = f'use --sampler={sampler}, or leave it out'
      raise errors.ConfigError('flag of another sampler', where, remedy)
  where = f'--penalize_prompt={f.penalize_prompt} with --repetition_penalty=1'
  remedy = 'give a penalty, or leave it out'
  idle = f['penalize_prompt'].present and f.repetition_penalty == 1
  errors.check(not idle, 'no penalty', where, remedy)


def sampler(f: Flags):
  """Returns what the flags ask for."""
  from t5lite import decoding

  processing = {name: getattr(f, name) for name in PROCESSING}
  if f.sampler == 'beam':
    return decoding.Beam(
      num_beams=f.num_beams,
      length_penalty=f.length_penalty,
      early_stopping=f.early_stopping,
      **processing,
    )
  if f.sampler == 'greedy':
    return decoding.Sampler(**processing)
  return decoding.Sampler(
    temperature=f.temperature, top_k=f.top_k, top_p=f.top_p, min_p=f.min_p, **processing
  )
