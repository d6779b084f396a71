#!/bin/sh
# The tests with the oldest versions that pyproject.toml allows: sh tools/test_lowest.sh [what follows `pytest`]
# Installs into .venv-lowest beside this folder, once. Needs Python 3.11 or 3.12, for which there are wheels that old.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
environment="$root/.venv-lowest"
python="$environment/bin/python"
cd "$root"

if ! [ -x "$python" ]; then
    for base in python3.11 python3.12 python3 ""; do
        [ -z "$base" ] && echo "the oldest versions need Python 3.11 or 3.12, and there is none: not tested" && exit 0
        "$base" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && break
    done
    "$base" -m venv "$environment"
fi
if [ -z "$(find "$environment/lowest.txt" -newer pyproject.toml 2>/dev/null)" ]; then
    "$python" - >"$environment/constraints.txt" <<'END'
import tomllib
with open("pyproject.toml", "rb") as file:
    print("\n".join(line.replace(">=", "==") for line in tomllib.load(file)["project"]["dependencies"]))
END
    "$python" -m pip install --quiet --disable-pip-version-check --constraint "$environment/constraints.txt" \
        --editable "$root[test]"
    mv "$environment/constraints.txt" "$environment/lowest.txt"
fi
echo "with $(tr '\n' ' ' <"$environment/lowest.txt")" >&2
exec "$python" -m pytest -n 2 --dist worksteal "$@"
