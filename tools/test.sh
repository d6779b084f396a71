#!/bin/sh
# All tests, slow ones too, in two processes: sh tools/test.sh [what follows `pytest`]
# Installs into .venv beside this folder, once.
set -eu
extras="[test]"
. "$(dirname "$0")/environment.sh"
cd "$root"
export OPENBLAS_NUM_THREADS=1  # the processes share the cores
exec "$python" -m pytest -m "" -n 2 --dist worksteal "$@"
