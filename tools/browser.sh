#!/bin/sh
# A Chromium for the tests of the report, where there is none: sh tools/browser.sh PYTHON [STAMP]
# Asks Playwright for its own, else apt-get where that may be used. Never an error: without one those tests are skipped.
# With a STAMP, a file, it tries once and leaves that file.
python=$1
stamp=${2:-}

there() {
    [ -n "${NSTCORE_CHROMIUM:-}" ] && return 0
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null 2>&1 && return 0
    done
    "$python" -c 'import os, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as p:
    sys.exit(not os.path.exists(p.chromium.executable_path))' >/dev/null 2>&1
}

# within SECONDS COMMAND ...: quietly, and not for longer, where the system can tell
within() {
    seconds=$1
    shift
    if command -v timeout >/dev/null 2>&1; then
        timeout "$seconds" "$@" >/dev/null 2>&1 </dev/null
    else
        "$@" >/dev/null 2>&1 </dev/null
    fi
}

there && exit 0
[ -n "$stamp" ] && [ -f "$stamp" ] && exit 0
[ -n "$stamp" ] && : >"$stamp"
echo "Looking for a browser for the tests of the report ..." >&2
within 90 "$python" -m playwright install chromium
if ! there && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    within 90 apt-get update
    within 240 apt-get install -y --no-install-recommends chromium fonts-dejavu-core
fi
there || echo "no browser could be had: the tests that need one are skipped (NSTCORE_CHROMIUM names one)" >&2
exit 0
