#!/usr/bin/env bash
# Makes or completes .venv with the pinned set: `bash tools/setup.sh`, or `bash tools/setup.sh dev` for the test extras.
# Does nothing when that is done already; an interrupted installation is done anew.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
extra=${1:-base}
venv=$root/.venv

# The newest Python that works: what is on the PATH may be a shim that fails when run, so each is run.
python=
for candidate in python3.13 python3.12 python3 python3.11; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "r1jax: no Python 3.11 or newer (with venv) works on the PATH; install python3.12, say" >&2
    exit 2
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
constraints=$root/tools/constraints.txt
if [ "$version" = 3.11 ]; then constraints=$root/tools/constraints-3.11.txt; fi

key=$("$python" - "$version $root" "$root/pyproject.toml" "$constraints" "${BASH_SOURCE[0]}" <<'END'
import hashlib, sys
print(hashlib.sha256(sys.argv[1].encode() + b"".join(open(file, "rb").read() for file in sys.argv[2:])).hexdigest())
END
)
if grep -qsx "$key" "$venv/$extra.stamp"; then exit 0; fi

echo "r1jax: installing into $venv with Python $version; this takes a minute or two" >&2
if ! grep -qsx "$key" "$venv/base.stamp"; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
rm -f "$venv"/*.stamp
pip() { "$venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
if [ "$extra" = dev ]; then
    pip install -c "$constraints" -e "$root[dev]"
    # The oracle tests compare with PyTorch where a build for CPUs can be had; "+cpu" never matches the CUDA build.
    if [ "$version" = 3.11 ]; then
        pip install -c "$constraints" torch==2.13.0+cpu transformers==5.23.0 2>/dev/null || true
    fi
    echo "$key" >"$venv/dev.stamp"
else
    pip install -c "$constraints" -e "$root"
fi
echo "$key" >"$venv/base.stamp"
