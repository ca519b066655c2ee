"""Curves as inline SVG: they scale to a phone, and the page's colours, light or dark, are theirs."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from r1jax.base.plots import PANELS, Panel
from r1jax.report.folder import Folder
from r1jax.report.quantities import TRUTHS, judged

POINTS = 120  # of a line; where there are more records, each point is the mean of a few
WIDE, HIGH, LEFT, BELOW = 340, 190, 44, 22  # of a picture, and of its margins for numbers


class Chart(NamedTuple):
    """lines: by label, their points (step, value). share: the axis goes from 0 to 1."""

    title: str
    unit: str
    lines: dict[str, list[tuple[float, float]]]
    share: bool = False


def curves(folders: Sequence[Folder], labels: Sequence[str]) -> dict[str, list[Chart]]:
    """By stage, a chart of each panel and of each further reward, a line a run."""
    charts: dict[str, list[Chart]] = {}
    for stage in dict.fromkeys(stage for folder in folders for stage in folder.training):
        runs = {label: folder.training.get(stage, []) for folder, label in zip(folders, labels, strict=True)}
        panels = [*PANELS.values(), *_rewards(runs.values())]
        made = [Chart(p.title, p.unit, _lines(runs, p.key), p.unit.startswith("share")) for p in panels]
        charts[stage] = [chart for chart in made if chart.lines]
    return charts


def gaming(folders: Sequence[Folder], labels: Sequence[str]) -> list[Chart]:
    """Each judge's reward with what it stands for, each scaled to its own range."""
    charts = []
    for folder, label in zip(folders, labels, strict=True):
        for stage, name in judged(folder):
            records = folder.training[stage]
            counted = [record for record in records if math.isfinite(record.get(f"reward/{name}", math.nan))]
            lines = {
                key: _scaled(points) for key in (f"reward/{name}", *TRUTHS) if len(points := _points(counted, key)) > 1
            }
            if lines:  # a judge that counted in one rollout only has none
                charts.append(Chart(f"{stage}: judge {name}, {label}", "from its lowest to its highest", lines, True))
    return charts


def svg(chart: Chart) -> str:
    """The picture with its caption, as a <figure>."""
    points = [point for line in chart.lines.values() for point in line]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = (0.0, 1.0) if chart.share else (min(y for _, y in points), max(y for _, y in points))
    y_low, y_high = min([y_low, *(y for _, y in points)]), max([y_high, *(y for _, y in points)])
    x_high, y_high = (high if high > low else low + 1 for low, high in ((x_low, x_high), (y_low, y_high)))

    def across(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDE - LEFT - 8)

    def down(y: float) -> float:
        return HIGH - BELOW - (y - y_low) / (y_high - y_low) * (HIGH - BELOW - 8)

    parts = []
    for y in ticks(y_low, y_high):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDE - 8}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{down(y) + 4:.1f}" text-anchor="end">{y:,.6g}</text>')
    for x in ticks(x_low, x_high):
        parts.append(f'<text x="{across(x):.1f}" y="{HIGH - 5}" text-anchor="middle">{x:,.6g}</text>')
    for i, line in enumerate(chart.lines.values()):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line)
        parts.append(f'<polyline class="line c{i % 5}" points="{path}"/>')
    legend = "".join(f'<span class="c{i % 5}">{escape(label)}</span> ' for i, label in enumerate(chart.lines))
    title = escape(chart.title)
    return (
        f"<figure><figcaption><b>{title}</b><br><small>{escape(chart.unit)}</small></figcaption>"
        f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
        + (f'<p class="legend">{legend}</p>' if len(chart.lines) > 1 else "")
        + "</figure>"
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high, at most `most` + 1 of them: multiples of 1, 2 or 5 times a power of ten."""
    least = (high - low) / most
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= least * (1 - 1e-9))
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _rewards(runs) -> list[Panel]:
    """Rewards that no panel shows and that are not the same throughout."""
    shown = {panel.key for panel in PANELS.values()}
    seen: dict[str, set[float]] = {}
    for record in (record for records in runs for record in records):
        for key, value in record.items():
            if key.startswith("reward/") and key not in shown and math.isfinite(value):
                seen.setdefault(key, set()).add(value)
    return [Panel(key, key, "mean over responses") for key, values in seen.items() if len(values) > 1]


def _lines(runs: dict[str, list[dict]], key: str) -> dict[str, list[tuple[float, float]]]:
    found = {label: _points(records, key) for label, records in runs.items()}
    return {label: points for label, points in found.items() if points}


def _points(records: Sequence[dict], key: str) -> list[tuple[float, float]]:
    """At most POINTS points (step, value), each the mean of as many records; values that are not finite are left
    out."""
    found = [(record["step"], record[key]) for record in records if math.isfinite(record.get(key, math.nan))]
    size = math.ceil(len(found) / POINTS)
    pieces = [found[i : i + size] for i in range(0, len(found), size)] if found else []
    return [(sum(x for x, _ in piece) / len(piece), sum(y for _, y in piece) / len(piece)) for piece in pieces]


def _scaled(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    low, high = min(y for _, y in points), max(y for _, y in points)
    return [(x, (y - low) / (high - low) if high > low else 0.5) for x, y in points]
