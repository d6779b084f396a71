#!/bin/sh
# All tests, slow ones too: sh tools/test.sh [what follows `pytest`]
# Installs into .venv beside this folder, once.
set -eu
extras="[test]"
. "$(dirname "$0")/environment.sh"
cd "$root"
exec "$python" -m pytest -m "" "$@"
