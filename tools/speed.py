"""What a recipe's run cost: the report's table of costs, then tokens/s of sampling and update, and the update's share
of the machine's matmul rate.

    python tools/speed.py runs/miniature_zero

All of it from what the run wrote, the matmul rate as well. Tokens are those of the responses (rollout) or of prompts
and responses (update), without padding; FLOPs are model FLOPs; each figure is the median over the rollouts but the
first.
"""

import argparse
import statistics
import sys

import gin

from r1jax.base.fields import UserError
from r1jax.model.cost import forward_flops
from r1jax.report import page, tables
from r1jax.report.folder import Folder
from r1jax.stages import reinforce


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("dir", metavar="DIR", help="a run, runs/<recipe>")
    try:
        tell(Folder(parser.parse_args(argv).dir))
    except UserError as error:
        print(f"speed.py: {error}", file=sys.stderr)
        return 2
    return 0


def tell(folder: Folder) -> None:
    print(page.plain(tables.costs([folder])))
    for stage, records in folder.training.items():
        found = [record for record in records if "time/rollout" in record][1:]
        if not found:
            continue
        gin.clear_config()
        gin.parse_config(folder.config(stage))
        model = gin.get_configurable(reinforce.Run)().model
        middle = lambda key: statistics.median(record[key] for record in found)  # noqa: E731, B023
        update = statistics.median(record["update/tokens"] / record["time/update"] for record in found)
        flops = update * 3 * forward_flops(model, middle("update/keys") / middle("update/tokens"))
        share = f", {flops / folder.rate:.0%} of the matmul rate" if folder.rate else ""
        print(
            f"{stage}: rollout {middle('rollout/tokens'):,.0f} tokens in {middle('time/rollout'):.2f} s = "
            f"{middle('rollout/tokens') / middle('time/rollout'):,.0f} tokens/s; update {update:,.0f} tokens/s{share}; "
            f"rewards {middle('time/score'):.2f} s, reference {middle('time/reference'):.2f} s"
        )


if __name__ == "__main__":
    sys.exit(main())
