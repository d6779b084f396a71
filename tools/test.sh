#!/bin/sh
# All tests, slow ones too, in two processes: sh tools/test.sh [what follows `pytest`]
# Installs into .venv beside this folder, once, and looks once for a browser, for the tests of the report.
set -eu
extras="[test]"
. "$(dirname "$0")/environment.sh"
cd "$root"
sh tools/browser.sh "$python" "$environment/browser-looked-for"
exec "$python" -m pytest -m "" -n 2 --dist worksteal "$@"
