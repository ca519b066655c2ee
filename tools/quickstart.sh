#!/usr/bin/env bash
# R1-Zero in miniature, from nothing to its results: sets .venv up and runs the recipe, or the gin file given first.
#   bash tools/quickstart.sh [FILE.gin] [what else `r1jax run` takes]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/tools/setup.sh"
file=$root/configs/recipes/miniature_zero.gin
if [[ "${1:-}" == *.gin && "$1" != -* ]]; then
    file=$1
    shift
fi
# Stages that share a program, and the next call, find it compiled.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/.venv/compiled}
exec "$root/.venv/bin/r1jax" run "$file" "$@"
