"""Transcripts side by side: what a stage wrote early and late, and what each checkpoint answers to the same questions.

All that a model wrote is hostile: it is escaped, controls and marks that turn the direction of writing are made
visible, and what is long loses its middle.
"""

from html import escape
from typing import NamedTuple

from r1jax.report.folder import Folder
from r1jax.report.tables import evaluations

STEPS = 12  # of a stage, spread over its training
LENGTH = 4000  # characters of a text
TURNS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C], "\ufffd")
CONTROLS = {n: chr(0x2400 + n) for n in range(32) if chr(n) not in "\n\t"} | dict.fromkeys(range(0x7F, 0xA0), "\ufffd")


class Pages(NamedTuple):
    """What one reader leafs through: by a page's label, its transcripts."""

    title: str
    pages: dict[str, list[dict]]


def readers(folder: Folder) -> list[Pages]:
    """One of the checkpoints, and one of each stage that trains on what it samples."""
    checkpoints = {
        name: shown for stage, name in evaluations([folder]).items() if (shown := folder.evaluations[stage].shown)
    }
    found = [Pages("The same questions, by checkpoint", checkpoints)]
    for stage, records in folder.transcripts.items():
        steps = list(dict.fromkeys(record["step"] for record in records))
        chosen = {steps[round(i * (len(steps) - 1) / max(STEPS - 1, 1))] for i in range(STEPS)}
        pages = {f"step {s}": [r for r in records if r["step"] == s] for s in steps if s in chosen}
        found.append(Pages(f"{stage}: early and late in training", pages))
    return [pages for pages in found if pages.pages]


def html(reader: Pages) -> str:
    """Two panes with a choice of page each: the first page, and the last one."""
    return (
        f'<section><h3>{escape(reader.title)}</h3><div class="panes">'
        + "".join(_pane(reader, chosen) for chosen in (0, len(reader.pages) - 1))
        + "</div></section>"
    )


def _pane(reader: Pages, chosen: int) -> str:
    options = "".join(
        f"<option{' selected' if i == chosen else ''}>{escape(visible(label))}</option>"
        for i, label in enumerate(reader.pages)
    )
    pages = "".join(
        f'<div class="page"><h4>{escape(visible(label))}</h4>{"".join(map(_transcript, records))}</div>'
        for label, records in reader.pages.items()
    )
    return f'<div class="pane"><select aria-label="{escape(reader.title)}">{options}</select>{pages}</div>'


def _transcript(record: dict) -> str:
    verdict = {True: "right", False: "not right", None: ""}[record.get("correct")]
    reward = f"reward {record['reward']:.3g}" if isinstance(record.get("reward"), int | float) else ""
    return (
        f'<article class="{verdict.replace(" ", "-")}"><p class="prompt">{text(record.get("prompt", ""))}</p>'
        f'<p class="said">{text(record.get("completion", ""))}</p>'
        f'<p class="judged">{", ".join(filter(None, (verdict, reward)))}</p></article>'
    )


def text(said: str) -> str:
    """A model's text for HTML."""
    said = str(said)
    if len(said) > LENGTH:
        half = LENGTH // 2
        said = f"{said[:half]}\n[… {len(said) - 2 * half:,} characters …]\n{said[-half:]}"
    return escape(visible(said))


def visible(said: str) -> str:
    """Without controls, marks of direction and halves of surrogate pairs, which no file can hold."""
    return said.translate(CONTROLS | TURNS).encode("utf-8", "replace").decode("utf-8")
