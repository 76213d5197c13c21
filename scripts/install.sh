#!/usr/bin/env bash
# Make a virtual environment and install everstep into it, editable.
#   scripts/install.sh PYTHON VENV EXTRAS        e.g.  python3 .venv dev,postgres
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2 extras=$3

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "everstep needs Python 3.11 or newer; $python is $("$python" --version)" >&2; exit 1; }

# Debian splits ensurepip off into a package of its own.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "first: apt-get install python3-venv" >&2; exit 1; }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv
fi

[ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
    "$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable ".[$extras]"
