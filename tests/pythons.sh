#!/bin/sh
# Prints the Pythons that the suite can run on, oldest first: one of each minor version from 3.9 on, a path a line.
#
#   sh tests/pythons.sh all      every one that is found
#   sh tests/pythons.sh ends     the oldest and the newest of them
#
# Looked at: python3 on PATH, python3.N on PATH, /usr/bin/python3, and those under ~/.pyenv/versions. One that cannot
# make an environment (Debian's without python3-venv) is passed over.
set -eu

# Minor version and real path, if it is new enough; any Python can read it. (A pyenv shim is not the real path.)
PROBE='import sys
if sys.version_info < (3, 9): sys.exit(0)
import ensurepip, ssl, venv
print("%d %s" % (sys.version_info[1], sys.executable))'

find_all() {
    for python in python3 python3.9 python3.10 python3.11 python3.12 python3.13 python3.14 python3.15 \
        /usr/bin/python3 "${HOME:-/}"/.pyenv/versions/3.*/bin/python3; do
        path=$(command -v "$python" 2>/dev/null) || continue
        # a pyenv shim of a version that is switched off is there and fails
        "$path" -I -c "$PROBE" </dev/null 2>/dev/null || :
    done | sort -s -n -k 1,1 | awk '!seen[$1]++ { sub(/^[0-9]+ /, ""); print }'
}

found=$(find_all)
if [ -z "$found" ]; then
    echo "tests/pythons.sh: no Python 3.9 or newer that can make an environment;" \
        "on Debian: apt-get install python3-venv" >&2
    exit 1
fi
case ${1:-all} in
    all) printf '%s\n' "$found" ;;
    ends) printf '%s\n' "$found" | awk 'NR == 1 { print } { last = $0 } END { if (NR > 1) print last }' ;;
    *) echo "usage: sh tests/pythons.sh all|ends" >&2; exit 2 ;;
esac
