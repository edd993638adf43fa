#!/bin/sh
# The guide's CI recipe (section 5), end to end, against tests/gateway.py in a scratch folder; then one byte of
# the manifest is changed, and the verification must refuse it. Run it by `make demo`.
#
# Every command is printed and then run from that same text. jq is used as in the guide where there is one;
# without it, stella's own --query and grep do the same.

set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
GATEWAY_START_TENTHS=200

scratch=
gateway=

cleanup() {
    if [ -n "$gateway" ]; then
        kill "$gateway" 2>/dev/null || :
        wait "$gateway" 2>/dev/null || :
    fi
    [ -z "$scratch" ] || rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
scratch=$(mktemp -d "${TMPDIR:-/tmp}/stella-demo.XXXXXX")

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi

say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }

show() {  # print a command, then run it
    printf '%s$ %s%s\n' "$bold" "$1" "$plain"
    eval "$1"
}

fail() {
    printf '\ndemo: %s\n' "$*" >&2
    exit 1
}

stella() { "$PYTHON" "$root/stella.py" "$@"; }

field() { sed -n "s/^$1: //p" gateway.txt; }

# Nothing of the caller's own configuration may get in.
for name in $(env | sed -n 's/^\(STELLA_[A-Z_]*\)=.*/\1/p'); do
    case $name in
        STELLA_COSIGN | STELLA_OPENSSL | STELLA_ZSTD) ;;
        *) unset "$name" ;;
    esac
done
export HOME="$scratch"
cd "$scratch"
mkdir artifacts keys

say "a local Export Center, in place of yours"
"$PYTHON" "$root/tests/gateway.py" --port 0 --data "$scratch/gateway" >gateway.txt 2>gateway.log &
gateway=$!
waited=0
until [ -n "$(field 'public key')" ]; do
    kill -0 "$gateway" 2>/dev/null || { cat gateway.log >&2; fail "the gateway did not start"; }
    [ "$waited" -lt "$GATEWAY_START_TENTHS" ] || fail "the gateway is not up after $((waited / 10)) seconds"
    sleep 0.1
    waited=$((waited + 1))
done
STELLA_SERVER=$(field url)
STELLA_TOKEN=$(field token)
export STELLA_SERVER STELLA_TOKEN
cp "$(field 'public key')" keys/acme-export.pub
printf 'STELLA_SERVER=%s, STELLA_TOKEN set, key in keys/acme-export.pub\n' "$STELLA_SERVER"

if command -v jq >/dev/null; then
    run_id_of="--format json | jq -r '.runId'"
    succeeded="jq -e 'select(.event == \"run.succeeded\")' > /dev/null"
else
    run_id_of="--format json --query runId"
    succeeded="grep '\"event\":\"run.succeeded\"' > /dev/null"
fi

say "submit an export run"
show "RUN_ID=\$(stella export run submit prof-json-raw \\
    --selector tenant=acme \\
    --selector product=registry.example.com/app:* \\
    --allow-empty=false \\
    $run_id_of)"
[ -n "${RUN_ID:-}" ] || fail "no run id"
echo "RUN_ID=$RUN_ID"

say "wait for completion"
show "stella export run watch \"\$RUN_ID\" --json \\
    | tee artifacts/run.log \\
    | $succeeded"
tail -n 1 artifacts/run.log

say "download the bundle, the manifest and the provenance"
show "stella export download \"\$RUN_ID\" --output artifacts/export.tar.zst --resume"
show "stella export manifest \"\$RUN_ID\" --output artifacts/export.json --signature artifacts/export.json.sig"
show "stella export provenance \"\$RUN_ID\" --output artifacts/provenance.json --signature artifacts/provenance.json.sig"
show "ls -l artifacts"

say "verify signatures and digests; the gateway is stopped first, for this needs no network"
kill "$gateway"
wait "$gateway" 2>/dev/null || :
gateway=
verify="stella export verify \"\$RUN_ID\" \\
    --manifest artifacts/export.json \\
    --provenance artifacts/provenance.json \\
    --bundle artifacts/export.tar.zst \\
    --key keys/acme-export.pub --format table"
show "$verify"

say "change one byte of the manifest"
show "$PYTHON -c \"
path = 'artifacts/export.json'
data = bytearray(open(path, 'rb').read())
data[data.index(b'createdAt') + 15] ^= 1  # the last digit of the year
open(path, 'wb').write(data)\""

say "verify again: it must refuse"
status=0
show "$verify" || status=$?
printf 'exit %s\n' "$status"
[ "$status" -eq 20 ] || fail "a changed manifest must give exit 20, not $status"
say "refused, as it must be"
