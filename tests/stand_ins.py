"""Stand-ins for the commands of others, which note what they are asked."""

import json
import pathlib

# Words that a shell would change if they were not quoted.
AWKWARD = ['--set=data.source=(("text:a b/*.txt", 1),)', "it's", '$HOME `id` \\ "', '', 'a\nb', '*']


def program(path: pathlib.Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


def noted(path: pathlib.Path) -> list[list[str]]:
  """Returns the arguments of each call that a stand-in has noted, and forgets them."""
  lines = path.read_text().splitlines() if path.exists() else []
  path.unlink(missing_ok=True)
  return [json.loads(line) for line in lines]
