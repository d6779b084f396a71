#!/bin/sh
# From a fresh checkout to a painting: sh tools/run.sh [what follows `python -m nstcore run`]
# With nothing on the line, the example pair. Installs into .venv beside this folder, once.
set -eu
extras=""
. "$(dirname "$0")/environment.sh"
exec "$python" -m nstcore run "$@"
