"""What a person sees: plain progress lines and learning curves."""

import numpy as np

from r1jax.base import plots, progress
from r1jax.base.progress import Progress


def test_plain_lines_at_intervals_and_the_last(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress("toy", 40) as shown:
        for step in range(21, 41):  # resumed after 20 steps, one a second
            shown.update(step, reward=step / 100, **{"tokens/s": 5200.4})
            clock[0] += 1.0
    assert capsys.readouterr().out.splitlines() == [
        "toy 21/40  reward 0.21  tokens/s 5200",
        "toy 26/40  0:14 left  reward 0.26  tokens/s 5200",
        "toy 31/40  0:09 left  reward 0.31  tokens/s 5200",
        "toy 36/40  0:04 left  reward 0.36  tokens/s 5200",
        "toy 40/40  reward 0.4  tokens/s 5200",
    ]


def test_a_total_that_is_not_known(capsys):
    with Progress("toy", None) as shown:
        shown.update(1000)
    assert capsys.readouterr().out == "toy 1000\n"


def test_curves_of_the_keys_that_are_there(tmp_path):
    records = [{"step": step, "loss": 1 / step, "entropy": float("nan"), "other": 1.0} for step in range(1, 101)]
    plots.curves([*records, {"step": 100, "reward/mean": 0.5}], tmp_path / "plots")
    pictures = sorted((tmp_path / "plots").iterdir())
    assert [picture.name for picture in pictures] == ["entropy.png", "loss.png", "reward.png"]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_smoothing_is_a_mean_of_what_is_finite():
    smooth = plots._smooth(np.array([1.0, 2.0, np.nan, 4.0, 6.0]), 3)
    assert smooth.tolist() == [1.5, 1.5, 3.0, 5.0, 5.0]
