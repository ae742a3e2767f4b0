#!/usr/bin/env bash
# Write environment-lock.yml: the exact versions that environment.yml resolves to today in a fresh, empty environment.
#     scripts/lock.sh [PYTHON]        PYTHON defaults to python3.11
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=${1:-python3.11}
fresh=$(mktemp -d)
trap 'rm -rf -- "$fresh"' EXIT
"$python" -m venv "$fresh/venv"
pip() { "$fresh/venv/bin/python" -m pip --disable-pip-version-check "$@"; }

sed -n '/^  - pip:/,$ s/^      - //p' environment.yml >"$fresh/requirements.txt"
pip install --upgrade --quiet -r "$fresh/requirements.txt" >&2
pip check >&2

{
    cat <<'HEADER'
# Written by scripts/lock.sh from environment.yml; do not edit by hand.
# Every package, exactly; ./main.sh installs these into .venv, and a test holds them against setup.cfg.
# CUDA wheels exist for Linux alone, hence their marker; elsewhere torch neither needs nor finds them.
name: dpsnn
channels:
  - conda-forge
dependencies:
HEADER
    "$fresh/venv/bin/python" -c 'import platform; print(f"  - python={platform.python_version()}")'
    pip --version | awk '{ print "  - pip=" $2 }'
    echo "  - pip:"
    # `--all` keeps setuptools, which torch needs at run time and `pip install -e .` needs to build.
    pip freeze --all --exclude pip |
        sed -E '/^(cuda-|nvidia-|triton==)/ s/$/; platform_system == "Linux"/; s/^/      - /'
} >"$fresh/environment-lock.yml"
mv -- "$fresh/environment-lock.yml" environment-lock.yml
echo "$PWD/environment-lock.yml"
