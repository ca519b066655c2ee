#!/usr/bin/env bash
# The linter and every test, on 8 emulated CPU devices: bash tools/test.sh [what else pytest takes]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/tools/setup.sh" dev
cd "$root"
.venv/bin/ruff check .

# The two workers, and the next call, share what is compiled.
export JAX_COMPILATION_CACHE_DIR=$root/.venv/compiled
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
