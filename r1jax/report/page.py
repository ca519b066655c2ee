"""The report: one HTML page that needs no network, and its tables in Markdown.

The page lets nothing in: its policy forbids every load, and runs no script but its own, by its hash.
"""

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from html import escape

from etils import epath

from r1jax.base.fields import require
from r1jax.base.files import absolute, write_atomically
from r1jax.report import charts, reader, tables
from r1jax.report.findings import FINDINGS
from r1jax.report.folder import Folder
from r1jax.report.tables import Table

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --paper: #fff; --line: #dbe1e8; --tint: #f4f6f9;
  --c0: #1f5fae; --c1: #c2571a; --c2: #2e8b57; --c3: #8e44ad; --c4: #8a7a00; --good: #1d7a46; --bad: #b3342d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa6b5; --paper: #14181e; --line: #2d3641;
  --tint: #1b2129; --c0: #79b0f2; --c1: #f2a06b; --c2: #6fce9b; --c3: #c997e3; --c4: #d8c64a; --good: #6fce9b;
  --bad: #f08a84; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; } h4 { margin: .6rem 0; font-size: .9rem; color: var(--soft); }
nav a { margin-right: 1rem; } a { color: var(--c0); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; min-width: 60%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; } td { font-variant-numeric: tabular-nums; }
td span { white-space: nowrap; }
.note, small, .legend { color: var(--soft); font-size: .85rem; max-width: 60rem; }
.yes { color: var(--good); font-weight: 600; } .no { color: var(--bad); font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .6rem; background: var(--tint); border-radius: 6px; } figcaption { font-size: .85rem; }
svg { width: 100%; height: auto; } svg text { font-size: 10px; fill: var(--soft); }
.grid { stroke: var(--line); } .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); }
.line.c3 { stroke: var(--c3); } .line.c4 { stroke: var(--c4); } .legend { margin: .2rem 0 0; }
span.c0 { color: var(--c0); } span.c1 { color: var(--c1); } span.c2 { color: var(--c2); }
span.c3 { color: var(--c3); } span.c4 { color: var(--c4); } .legend span::before { content: "— "; }
details > summary { cursor: pointer; font-weight: 600; margin: 1rem 0 .5rem; }
.panes { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .8rem; }
select { font: inherit; max-width: 100%; } .pane { max-height: 80vh; overflow-y: auto; }
article { background: var(--tint); border-left: 3px solid var(--line); margin: .6rem 0; padding: .5rem .7rem; }
article.right { border-color: var(--good); } article.not-right { border-color: var(--bad); }
 article p { margin: .2rem 0; }
.prompt, .said { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; font-size: .85rem; }
.said { font-family: ui-monospace, monospace; } .prompt, .judged { color: var(--soft); font-size: .8rem; }
"""
SCRIPT = """
for (const pane of document.querySelectorAll('.pane')) {
  const choice = pane.querySelector('select'), pages = pane.querySelectorAll('.page');
  const show = () => pages.forEach((page, i) => { page.hidden = i !== choice.selectedIndex; });
  choice.addEventListener('change', show);
  show();
}
"""
READING = (
    "An ordering (a difference above 0) holds when its 95% interval excludes the opposite, fails when the interval "
    "lies on the other side, and is open between the two, or without an interval. A level (at least or at most so "
    "much) is reached or missed by the mean. A finding shows when all that decides holds. Intervals are over the runs "
    "where there are several (Student's t), else over the questions of the one run, paired where two checkpoints are "
    "compared."
)


def write(roots: Sequence[epath.PathLike]) -> list[epath.Path]:
    """Writes report.html and report.md over these runs of one recipe: into the run's folder, or the one that holds all
    of them. -> their paths. UserError where a folder holds no run, or a run or a seed comes twice."""
    places = [absolute(root) for root in roots]
    once = {os.path.realpath(place) for place in places}
    require(len(once) == len(places), "a folder is given twice; each run counts once")
    folders = [Folder(place) for place in places]
    recipes = {folder.recipe for folder in folders}
    require(
        len(recipes) == 1, f"these are runs of several recipes ({', '.join(sorted(recipes))}); one report is of one"
    )
    (seed, times), *_ = Counter(folder.seed for folder in folders if folder.seed is not None).most_common(1) or [(0, 0)]
    require(times < 2, f"{times} of these runs are of seed {seed}; each seed counts once")
    into = places[0] if len(places) == 1 else next(p for p in places[0].parents if all(p in q.parents for q in places))
    written = [into / "report.html", into / "report.md"]
    for path, text in zip(written, (html(folders), markdown(folders)), strict=True):
        write_atomically(path, text)
    return written


def html(folders: Sequence[Folder]) -> str:
    labels = _labels(folders)
    title = escape(f"r1jax: {folders[0].recipe}")
    made = charts.curves(folders, labels)
    begin = next((stage for stage in made if stage in folders[0].transcripts), next(iter(made), None))
    curves = [
        f"<details{' open' if stage == begin else ''}><summary>{escape(stage)}</summary>{_charts(several)}</details>"
        for stage, several in made.items()
    ]
    readers = [reader.html(pages) for pages in reader.readers(folders[0])]
    gaming = charts.gaming(folders, labels)
    parts = {
        "Findings": f'<p class="note">{escape(READING)}</p>'
        + _table(tables.summary(folders))
        + "".join(_table(tables.lines(i, finding, folders)) for i, finding in enumerate(FINDINGS, 1))
        + (f"<h3>Judges and what they stand for</h3>{_charts(gaming)}" if gaming else ""),
        "Checkpoints": "".join(map(_table, tables.checkpoints(folders))),
        "Curves": "".join(curves),
        "Transcripts": f'<p class="note">Of {escape(labels[0])}.</p>{"".join(readers)}' if readers else "",
        "Cost": "".join(_table(table) for table in (tables.costs(folders), tables.kept(folders)) if table.rows),
    }
    parts = {name: content for name, content in parts.items() if content}
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in parts)
    sections = "".join(f'<h2 id="{name.lower()}">{name}</h2>{content}' for name, content in parts.items())
    return reader.visible(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f"content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_hash(SCRIPT)}'\">"
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1><p>{escape(_runs(labels))}</p><nav>{links}</nav>"
        f"{sections}<script>{SCRIPT}</script></body></html>\n"
    )


def markdown(folders: Sequence[Folder]) -> str:
    """The tables."""
    labels = _labels(folders)
    found = [tables.lines(i, finding, folders) for i, finding in enumerate(FINDINGS, 1)]
    parts = {
        "Findings": [tables.summary(folders), *found],
        "Checkpoints": tables.checkpoints(folders),
        "Cost": [tables.costs(folders), tables.kept(folders)],
    }
    text = f"# {_cell(f'r1jax: {folders[0].recipe}')}\n\n{_cell(_runs(labels))} Curves and transcripts: report.html.\n"
    for name, several in parts.items():
        shown = [table for table in several if table.rows]
        if shown:
            text += f"\n## {name}\n" + (f"\n{READING}\n" if name == "Findings" else "")
            text += "".join(map(_markdown, shown))
    return text


def _labels(folders: Sequence[Folder]) -> list[str]:
    """The runs' seeds, and where one says none, its folder."""
    return [str(folder.root) if folder.seed is None else f"seed {folder.seed}" for folder in folders]


def _runs(labels: Sequence[str]) -> str:
    return f"{len(labels)} runs: {', '.join(labels)}." if len(labels) > 1 else f"One run, {labels[0]}."


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join(f"<tr>{''.join(map(_td, row))}</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f'<h3>{escape(table.title)}</h3><div class="wide"><table><tr>{head}</tr>{rows}</table></div>{note}'


def _td(cell: str) -> str:
    mark = {"shows": "yes", "holds": "yes", "does not show": "no", "fails": "no"}.get(cell)
    if mark:
        return f'<td class="{mark}">{cell}</td>'
    said, bracket, between = escape(cell).partition(" (")  # an interval stays on one line
    return f"<td>{said}{f' <span>({between}</span>' if bracket else ''}</td>"


def plain(table: Table) -> str:
    """The table for a terminal."""
    lines = [table.head, *table.rows]
    wide = [max(len(line[i]) for line in lines) for i in range(len(table.head))]
    rows = ["  ".join(cell.ljust(n) for cell, n in zip(line, wide, strict=True)).rstrip() for line in lines]
    return "\n".join([*rows, "", table.note])


def _markdown(table: Table) -> str:
    lines = [table.head, ("---",) * len(table.head), *table.rows]
    note = f"\n{_cell(table.note)}\n" if table.note else ""
    body = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
    return f"\n### {_cell(table.title)}\n\n{body}\n{note}"


def _cell(text: str) -> str:
    """Text for Markdown, where HTML and bars would mean something."""
    return escape(reader.visible(text), quote=False).replace("|", "\\|").replace("\n", " ")


def _charts(made: Sequence[charts.Chart]) -> str:
    return f'<div class="charts">{"".join(map(charts.svg, made))}</div>'


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
