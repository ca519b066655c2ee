"""What a recipe's run cost: time per stage, tokens/s of rollout and update, and the update's share of the matmul rate.

    python tools/speed.py runs/miniature_zero

Reads what the run wrote and measures the machine's matrix products beside it, with the same cores. Tokens are
those of the responses (rollout) or of prompts and responses (update), without padding; FLOPs are model FLOPs.
"""

import json
import statistics
import sys
from pathlib import Path

import gin

from r1jax.base.metrics import read
from r1jax.model.cost import forward_flops, matmul_rate
from r1jax.stages import reinforce


def main(root: Path) -> None:
    total = 0.0
    for record in json.loads((root / "times.json").read_text()).items():
        stage, seconds = record
        total += seconds
        print(f"{stage:16s} {seconds:7.1f} s")
    print(f"{'all':16s} {total:7.1f} s")
    rate = matmul_rate()
    print(f"\nmatrix products: {rate / 1e9:.0f} GFLOP/s")
    for stage in sorted(path.parent for path in root.glob("*/config.gin")):
        records = [record for record in read(stage / "metrics.jsonl") if "time/rollout" in record][1:]
        if not records:
            continue
        gin.clear_config()
        gin.parse_config_file(str(stage / "config.gin"))
        cfg = gin.get_configurable(reinforce.Run)()
        middle = lambda key: statistics.median(record[key] for record in records)  # noqa: E731, B023
        update = statistics.median(record["update/tokens"] / record["time/update"] for record in records)
        context = middle("update/tokens") * cfg.minibatches / cfg.sequences / 2
        share = update * 3 * forward_flops(cfg.model, context) / rate
        print(
            f"{stage.name}: rollout {middle('rollout/tokens'):,.0f} tokens in {middle('time/rollout'):.2f} s = "
            f"{middle('rollout/tokens') / middle('time/rollout'):,.0f} tokens/s; update {update:,.0f} tokens/s, "
            f"{share:.0%} of the matmul rate; "
            f"rewards {middle('time/score'):.2f} s, reference {middle('time/reference'):.2f} s"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
