"""Learning curves of a stage: one PNG a panel, from the records of metrics.jsonl.

The raw values are a thin line; over them lies their mean over a window that grows with the run.
"""

import io
from typing import NamedTuple

import numpy as np
from etils import epath

from r1jax.base.files import write_atomically
from r1jax.base.mesh import is_main

WINDOWS = 25  # the smoothing window is a run's length divided by this


class Panel(NamedTuple):
    """A picture: the key of the records that it shows, its title and what stands at the vertical axis."""

    key: str
    title: str
    unit: str


PANELS = {
    "accuracy": Panel("reward/accuracy", "Accuracy of the training responses", "share of responses"),
    "reward": Panel("reward/mean", "Reward", "mean over responses"),
    "length": Panel("length/mean", "Length of the training responses", "tokens a response"),
    "kl": Panel("kl", "Divergence from the reference", "nats a token"),
    "entropy": Panel("entropy", "Entropy of the policy", "nats a token"),
    "format": Panel("reward/format", "Responses in the asked format", "share of responses"),
    "truncation": Panel("length/truncated", "Responses cut at the length limit", "share of responses"),
    "reflection": Panel("words/reflection", "Looking back", "reflective words a response"),
    "language": Panel("words/language", "Thinking in the question's language", "share of its words"),
    "loss": Panel("loss", "Loss", "mean over the batch"),
    "agreement": Panel("accuracy", "Agreement of the judge with its labels", "share of the batch"),
    "margin": Panel("margin", "What the judge puts between better and worse", "difference of values"),
}


def curves(records: list[dict], folder: epath.PathLike) -> None:
    """Draws folder/<panel>.png for every one of PANELS whose key is in the records ({"step": ..., key: value}).

    On process 0; on the others nothing."""
    for name, panel in PANELS.items() if is_main() else ():
        points = [(record["step"], record[panel.key]) for record in records if panel.key in record]
        if points:
            write_atomically(epath.Path(folder) / f"{name}.png", _draw(np.asarray(points, float), panel))


def _draw(points_n2: np.ndarray, panel: Panel) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # without pyplot there is no state and no window
    from matplotlib.figure import Figure

    step_n, value_n = points_n2.T
    figure = Figure(figsize=(7.2, 4.2), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(step_n, value_n, color="#9db7d5", linewidth=0.8, label="each record")
    window = len(value_n) // (2 * WINDOWS) * 2 + 1  # odd, so that it has a centre
    if window > 1:
        axes.plot(step_n, _smooth(value_n, window), color="#1f4e8c", linewidth=2.0, label=f"mean over {window}")
        axes.legend(frameon=False)
    axes.set_title(panel.title, loc="left", fontweight="bold")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(panel.unit)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def _smooth(value_n: np.ndarray, window: int) -> np.ndarray:
    """Centred mean, over fewer values near the ends; values that are not finite are left out."""
    finite, ones = np.isfinite(value_n), np.ones(window)
    total = np.convolve(np.where(finite, value_n, 0.0), ones, "same")
    count = np.convolve(finite.astype(float), ones, "same")
    return total / np.where(count > 0, count, np.nan)
