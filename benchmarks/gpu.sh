#!/bin/sh
# Checks and measures hydrakit on one GPU, in under 10 minutes:
#
#   benchmarks/gpu.sh           a table in $OUT (or ./gpu-results): gpu.md, one .json and .log a part
#   benchmarks/gpu.sh --cpu     the same with tiny sizes on the CPU: tries every line of it
#
# It uses $PYTHON (python3) if that has what hydrakit needs, else a virtual environment that adds it
# to that Python's torch: from wheels in ./.whl if the folder is there, else from PyPI. Every part has
# a time limit of its own, so that none costs the others their results; PARTS="steps:50 cells:165"
# takes these parts again, with these limits in seconds.
set -u
cd "$(dirname "$0")/.." || exit 1
device=${DEVICE:-cuda}
[ "${1:-}" = "--cpu" ] && device=cpu
out=${OUT:-$PWD/gpu-results}
mkdir -p "$out" || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}

needed="import click, filelock, numpy, PIL, pluggy, pydantic, pydicom, rich, safetensors, scipy, torch"
if ! "$python" -c "$needed" 2>/dev/null; then
    "$python" -m venv --system-site-packages "$work/venv" || exit 1
    python=$work/venv/bin/python
    packages="click filelock numpy pillow pluggy pydantic pydicom rich safetensors scipy pytest hypothesis scikit-learn"
    if [ -d .whl ]; then
        "$python" -m pip install -q --no-index --find-links .whl $packages || exit 1
    else
        "$python" -m pip install -q $packages || exit 1
    fi
    "$python" -c "$needed" || exit 1
fi

# The entry points of hydrakit and its plugins, as an installation would have them.
"$python" - "$work/site" <<'END' || exit 1
import sys, tomllib
from pathlib import Path

root = tomllib.loads(Path("pyproject.toml").read_text())
points = dict(root["tool"]["hatch"]["metadata"]["hooks"]["custom"]["own"])
for path in sorted(Path("plugins").glob("*/pyproject.toml")):
    points |= tomllib.loads(path.read_text())["project"]["entry-points"]["hydrakit"]
info = Path(sys.argv[1]) / "hydrakit_imaging.dist-info"
info.mkdir(parents=True)
metadata = f"Metadata-Version: 2.1\nName: hydrakit-imaging\nVersion: {root['project']['version']}\n"
(info / "METADATA").write_text(metadata)
lines = [f"{name} = {module}" for name, module in points.items()]
(info / "entry_points.txt").write_text("[hydrakit]\n" + "\n".join(lines) + "\n")
END
if ! "$python" -c "import importlib.metadata as m; m.version('hydrakit-imaging')" 2>/dev/null; then
    PYTHONPATH=$work/site:${PYTHONPATH:-}
fi
PYTHONPATH=$PWD:$(printf '%s:' "$PWD"/plugins/*/)${PYTHONPATH:-}
export PYTHONPATH
export PYTHONUNBUFFERED=1 HYDRAKIT_CACHE="$work/cache"

part() { # NAME SECONDS
    limit=$2
    [ "$device" = cpu ] && limit=900  # a trial of all lines, wherever it is slow
    echo "== $1 (at most $limit s)"
    timeout -k 5 "$limit" "$python" -m benchmarks.gpu "$1" --device "$device" --out "$out" \
        --work "$work/files" >"$out/$1.log" 2>&1
    echo $? >"$out/$1.state"
    grep -v Warning "$out/$1.log" | tail -n 40
}

[ -n "${PARTS:-}" ] || rm -f "$out"/*.json "$out"/*.state
for each in ${PARTS:-checks:60 steps:50 epochs:120 stacked:90 cells:165 compiled:60}; do
    part "${each%:*}" "${each#*:}"
done
if [ "$device" != cpu ] && "$python" -c "import pytest" 2>/dev/null; then
    echo "== tests on the GPU (at most 45 s)"
    timeout -k 5 45 "$python" -m pytest -q -m cuda -p no:cacheprovider tests/test_graphs.py \
        tests/test_train.py >"$out/tests.log" 2>&1
    tail -n 5 "$out/tests.log"
fi
"$python" -m benchmarks.gpu table --out "$out" --work "$work/files" --device "$device"
cat "$out/gpu.md"
failed=$(grep -Lx 0 "$out"/*.state | wc -l)
[ "$failed" -eq 0 ] && ! grep -q "DOES NOT HOLD: \(no bit\|none\|at most\)" "$out/gpu.md"
