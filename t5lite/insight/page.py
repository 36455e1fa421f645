"""The frame of a self-contained page: its style and the few elements that reports are made of."""

from collections.abc import Iterable, Mapping, Sequence
import html
import re

# Colours: Okabe and Ito (2008), told apart by colour-blind eyes; lighter ones on a dark ground.
STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --card: #f5f6f8; --ink: #1b1f24;
  --faint: #59636e; --rule: #d9dee4; --train: #0072b2; --held-out: #c14e00; --baseline: #00795b; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1e2329; --ink: #e8ebee;
  --faint: #9aa5b1; --rule: #363d45; --train: #56b4e9; --held-out: #f0a03c; --baseline: #2fc49a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 3rem 0 1rem; } h3 { font-size: 1rem; margin: 2.25rem 0 .75rem; }
p { margin: .4rem 0; }
.faint, .note { color: var(--faint); } .note { font-size: .85rem; overflow-wrap: anywhere; }
.above { color: var(--faint); font-size: .85rem; margin: 0 0 .35rem; overflow-wrap: anywhere; }
.warning { border-left: 4px solid var(--held-out); padding: .4rem .9rem;
  margin-top: 1rem; background: var(--card); }
.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(11.5rem, 1fr));
  gap: .75rem; margin: 1.75rem 0 0; }
.numbers div { background: var(--card); border-radius: .5rem; padding: .8rem 1rem; }
.numbers .lead { grid-column: span 2; }
.numbers dt { color: var(--faint); font-size: .85rem; }
.numbers dd { margin: 0; font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.numbers dd + dd { font-size: .85rem; font-weight: 400; color: var(--faint); }
figure { margin: 0; min-width: 0; } figcaption { margin-bottom: .35rem; }
figcaption strong { font-weight: 600; margin-right: .9rem; }
figcaption span { font-size: .85rem; margin-right: .9rem; white-space: nowrap; }
figcaption span::before { content: ""; display: inline-block; width: .7rem; height: .7rem;
  border-radius: 50%; margin-right: .35rem; background: var(--key); }
svg { display: block; width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt; }
.small { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr));
  gap: 2.25rem 2rem; margin-top: 2.5rem; }
.small.few { grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr));
  margin: 0 0 1.5rem; }
.narrow { display: none; }
table { border-collapse: collapse; table-layout: fixed; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .55rem .9rem .55rem 0;
  border-bottom: 1px solid var(--rule); overflow-wrap: anywhere; }
th { color: var(--faint); font-weight: 500; }
th:first-child, td:first-child { font-variant-numeric: tabular-nums; color: var(--faint);
  width: 5.5rem; }
.plain th:first-child, .plain td:first-child { width: 24%; color: inherit; }
.plain th:last-child { width: 30%; }
.bars { columns: 13rem; column-gap: 1.5rem; margin: 0; font-size: .85rem; }
.bars div { display: grid; grid-template-columns: 1fr 5rem 2.5rem; gap: .6rem; break-inside: avoid;
  align-items: center; padding: .1rem 0; }
.bars dt { overflow-wrap: anywhere; } .bars dd { margin: 0; font-variant-numeric: tabular-nums; }
.bars dd:first-of-type { height: .7rem; background: linear-gradient(var(--train), var(--train))
  no-repeat 0 / var(--share) 100% var(--card); }
td div { max-height: 11rem; overflow: auto; white-space: pre-wrap; }
mark { background: none; color: var(--held-out); font-weight: 600; }
details { border-top: 1px solid var(--rule); }
details:last-child { border-bottom: 1px solid var(--rule); }
summary { cursor: pointer; padding: .6rem 0; }
pre { background: var(--card); border-radius: .5rem; padding: 1rem; overflow: auto;
  font-size: .8rem; }
@media (max-width: 40rem) {
  main { padding: 1.5rem 1rem 3rem; } h1 { font-size: 1.5rem; }
  .numbers { grid-template-columns: 1fr 1fr; gap: .5rem; } .numbers dd { font-size: 1.25rem; }
  .wide { display: none; } .narrow { display: block; } thead { display: none; }
  tr { display: block; padding: .6rem 0; border-bottom: 1px solid var(--rule); }
  td, td:first-child { display: block; width: auto; border: 0; padding: .2rem 0; }
  td:has(div:empty) { display: none; }
  td::before { content: attr(data-label); display: block; color: var(--faint); font-size: .8rem; } }
"""


def document(title: str, body: str, head: str = '') -> str:
  """Returns the whole page; `head` is what its head holds besides the style."""
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
{head}</head>
<body><main>
{body}
</main></body>
</html>
"""


def numbers(entries: Iterable[tuple[str, str, str]]) -> str:
  """Returns cards of (name, number, note); the first is the widest."""
  cards = [
    f'<div{" class=lead" if index == 0 else ""}><dt>{html.escape(name)}</dt>'
    f'<dd>{html.escape(number)}</dd><dd>{html.escape(note)}</dd></div>'
    for index, (name, number, note) in enumerate(entries)
  ]
  return '<dl class="numbers">\n' + '\n'.join(cards) + '\n</dl>'


def figure(title: str, keys: Iterable[tuple[str, str]], picture: str) -> str:
  """Returns a picture with its title and keys of (label, name of the colour)."""
  spans = ''.join(
    f'<span style="--key: var(--{color})">{html.escape(label)}</span>' for label, color in keys
  )
  caption = f'<figcaption><strong>{html.escape(title)}</strong>{spans}</figcaption>'
  return f'<figure>{caption}{picture}</figure>'


def bars(shares: Mapping[str, float]) -> str:
  """Returns a bar for each share of 0 to 1, with its name and number."""
  rows = [
    f'<div><dt>{html.escape(name)}</dt><dd style="--share: {100 * share:.1f}%"></dd>'
    f'<dd>{share:.3f}</dd></div>'
    for name, share in shares.items()
  ]
  return '<dl class="bars">\n' + '\n'.join(rows) + '\n</dl>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = 'stepped') -> str:
  """Returns a table; on a phone each row becomes a block.

  The first column is narrow, for a step or a word; of a 'plain' table it is like the others.
  """
  head = ''.join(f'<th>{html.escape(column)}</th>' for column in columns)
  body = '\n'.join(
    '<tr>'
    + ''.join(
      f'<td data-label="{html.escape(column)}"><div>{passage(cell)}</div></td>'
      for column, cell in zip(columns, row, strict=True)
    )
    + '</tr>'
    for row in rows
  )
  return (
    f'<table class="{kind}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'
  )


def passage(text: str) -> str:
  """Returns a passage of text, its sentinels and mask tokens marked."""
  escaped = html.escape(text)
  return re.sub(r'(&lt;extra_id_\d+&gt;|\[MASK\])', r'<mark>\1</mark>', escaped)


def folded(summary: str, text: str) -> str:
  """Returns text behind a line that opens it."""
  return (
    f'<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>'
  )
