# Sourced by run.sh and test.sh: the virtual environment of this checkout, made or brought up to date.
#
#   extras    what to install beyond the core, such as "[test]"; set by the caller
#   python    afterwards: the environment's interpreter
#
# The packages come from the configured registry; nothing else is downloaded.

root=$(cd "$(dirname "$0")/.." && pwd)
environment="$root/.venv"
python="$environment/bin/python"

find_python() {
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "nstcore needs Python 3.11 or later, and found none; install one and call this again" >&2
    exit 2
}

# When what the environment was made from has changed, it is installed anew
stamp="$environment/nstcore-installed${extras}"
if ! [ -x "$python" ] || ! "$python" -c 'import sys' 2>/dev/null; then
    base=$(find_python)
    rm -rf "$environment"
    "$base" -m venv "$environment" || {
        echo "a virtual environment could not be made with $base; on Debian and Ubuntu, install python3-venv" >&2
        exit 2
    }
fi
# setup.py compiles kernels/cpu; the folder's own time tells of a source that has gone
changed=$(find "$root/pyproject.toml" "$root/setup.py" "$root/kernels/cpu" -newer "$stamp" 2>/dev/null | head -n 1)
if ! [ -f "$stamp" ] || [ -n "$changed" ]; then
    echo "Installing nstcore$extras into $environment ..." >&2
    : >"$environment/installing" # its time is before the sources are read: a change meanwhile is not lost
    "$python" -m pip install --quiet --disable-pip-version-check --editable "$root$extras" || {
        echo "the installation failed (see above); is the package registry reachable?" >&2
        exit 2
    }
    mv "$environment/installing" "$stamp"
fi
