#!/bin/sh
# Installs stella: one Python file, and a launcher that starts it fast. Changes nothing else.
#
#   sh install.sh [--prefix DIR] [--from URL] [--dry-run]     install or update
#   sh install.sh --uninstall [--prefix DIR] [--dry-run]      remove what an install put there
#
#   --prefix DIR   where to (default: /usr/local as root, else ~/.local)
#   --from URL     fetch stella.py from URL/stella.py and check it against URL/SHA256SUMS; https only, except
#                  from this host; STELLA_BASE_URL says the same
#   --dry-run      say what would be done, write nothing under the prefix
#
# Run from a checkout or an unpacked kit it takes the stella.py beside it, and checks it when SHA256SUMS lies
# there too. Read from a pipe (curl ... | sh) it fetches from the base URL.
#
# What it writes:  PREFIX/bin/stella                 the launcher
#                  PREFIX/lib/stella/stella.py       the program, and __pycache__ with its bytecode
#                  PREFIX/lib/stella/vendor/         cosign and zstd, where a kit or checkout brings them
# Every file appears whole or not at all, and a second run replaces the first. PATH is not edited.
#
# POSIX sh: dash, bash, busybox. All of it is read before any of it runs (see the last line), so that a pipe
# that breaks in the middle does nothing.

set -eu
umask 022

DEFAULT_BASE_URL=https://downloads.stellaops.org/cli
MARK='# stella launcher, written by install.sh'
# The newest first, and the plain name.
PYTHONS='python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3'
# Minor version and real path of the interpreter, if it is new enough. Written so that any Python can read it.
PROBE='import sys
if sys.version_info < (3, 9): sys.exit(1)
print("%d %s" % (sys.version_info[1], getattr(sys, "_base_executable", "") or sys.executable))'

scratch=
unfinished=

say() { printf '%s\n' "install.sh: $*"; }

fail() {
    printf '%s\n' "install.sh: $*" >&2
    exit 1
}

cleanup() {
    [ -z "$scratch" ] || rm -rf "$scratch"
    [ -z "$unfinished" ] || rm -f "$unfinished"
}

have() { command -v "$1" >/dev/null 2>&1; }

# quoted TEXT: TEXT as one word of sh
quoted() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

usage() {
    cat <<'END'
usage: sh install.sh [--prefix DIR] [--from URL] [--dry-run] [--uninstall]

  --prefix DIR   where to (default: /usr/local as root, else ~/.local)
  --from URL     fetch from URL/stella.py, checked against URL/SHA256SUMS (or set STELLA_BASE_URL)
  --dry-run      say what would be done, write nothing under the prefix
  --uninstall    remove what an install put under the prefix
END
}

find_pythons() {  # the real paths of the suitable Pythons, newest first, or nothing
    for name in $PYTHONS; do
        # a name can be there and not work: a pyenv shim of a version that is switched off
        ! have "$name" || "$name" -I -c "$PROBE" 2>/dev/null || :
    done | sort -rn -k 1,1 | sed 's/^[0-9]* //'
}

sha256_of() {
    if have sha256sum; then sum=$(sha256sum <"$1")
    elif have shasum; then sum=$(shasum -a 256 <"$1")
    elif have openssl; then sum=$(openssl dgst -sha256 -r <"$1")
    else fail "nothing here can compute a SHA-256 (looked for sha256sum, shasum, openssl): not installing unchecked"
    fi
    printf '%s\n' "${sum%% *}"
}

check() {  # check DIR NAME: DIR/NAME is what DIR/SHA256SUMS says
    actual=$(sha256_of "$1/$2") || exit 1
    wanted=
    while read -r sum listed || [ -n "$sum" ]; do
        listed=${listed#\*}
        [ "${listed#./}" != "$2" ] || wanted=$sum
    done <"$1/SHA256SUMS"
    [ -n "$wanted" ] || fail "SHA256SUMS has no line for $2; nothing was installed"
    [ "$actual" = "$wanted" ] ||
        fail "$2 is not what SHA256SUMS says (is $actual, should be $wanted); nothing was installed"
}

is_safe_url() {
    case $1 in
        https://?*) return 0 ;;
        *@*) return 1 ;;
        http://127.0.0.1 | http://127.0.0.1[:/]* | http://localhost | http://localhost[:/]* | \
            'http://[::1]' | 'http://[::1]'[:/]*) return 0 ;;
    esac
    return 1
}

fetch() {  # fetch URL FILE
    if have curl; then
        # a redirect may not leave https; plain http only as given, to this host
        curl -sSfL --connect-timeout 30 --retry 3 --proto '=https,http' --proto-redir '=https' -o "$2" "$1"
    else
        "$python" -I - "$1" "$2" <<'END'
import shutil, sys, urllib.request
class HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, response, code, message, headers, url):
        if not url.startswith("https://"):
            sys.exit("a redirect leaves https: " + url)
        return super().redirect_request(request, response, code, message, headers, url)
try:
    with urllib.request.build_opener(HttpsOnly).open(sys.argv[1], timeout=30) as reply, open(sys.argv[2], "wb") as file:
        shutil.copyfileobj(reply, file)
except OSError as error:
    sys.exit("%s: %s" % (sys.argv[1], error))
END
    fi || fail "cannot fetch $1"
}

put() {  # put FILE TARGET MODE: copy, then rename into place
    if [ "$dry_run" = yes ]; then
        say "would write $2"
        return
    fi
    mkdir -p "$(dirname "$2")"
    unfinished=$2.new.$$
    cp "$1" "$unfinished"
    chmod "$3" "$unfinished"
    mv -f "$unfinished" "$2"
    unfinished=
}

write_launcher() {  # write_launcher FILE
    cat >"$1" <<END
#!/bin/sh
$MARK
lib=$(quoted "$lib")
py=$(quoted "$python")
if [ ! -x "\$py" ]; then
    # the Python of the install is gone or not ours to run: take the newest there is
    py=
    for name in $PYTHONS; do
        if "\$name" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then py=\$name; break; fi
    done
    if [ -z "\$py" ]; then
        echo 'stella: no python3 of version 3.9 or newer on PATH; install one' >&2
        exit 30
    fi
fi
# Imported, not run as a file, so that Python takes the bytecode it cached. -I -S: nothing from the current
# folder, the environment or site-packages gets in.
exec "\$py" -I -S -c 'import sys
sys.path.append(sys.argv.pop(1))
import stella
sys.exit(stella.main())' "\$lib" "\$@"
END
}

each_vendor() {  # each_vendor COMMAND: for every file of vendor/ that goes along; not the tests' extra cosigns
    for item in "$source"/vendor/* "$source"/vendor/bin/*; do
        case ${item##*/} in
            fetch | kit | README.md | cosign-[0-9]* | *.part) continue ;;
        esac
        if [ -f "$item" ]; then "$1" "${item#"$source/"}"; fi
    done
}

check_vendor() { check "$source" "$1"; }

put_vendor() {
    if [ -x "$source/$1" ]; then mode=755; else mode=644; fi
    put "$source/$1" "$lib/$1" "$mode"
}

install_stella() {
    pythons=$(find_pythons)
    python=$(printf '%s\n' "$pythons" | sed 1q)
    [ -n "$python" ] || fail "no python3 of version 3.9 or newer on PATH; install one first"
    if [ -e "$bin/stella" ] && ! grep -q "^$MARK" "$bin/stella" 2>/dev/null; then
        fail "$bin/stella is there and not from this installer; move it away or choose another --prefix"
    fi

    scratch=$(mktemp -d "${TMPDIR:-/tmp}/stella-install.XXXXXX")
    if [ -z "$from" ]; then
        source=$here
        say "installing from $source"
    else
        is_safe_url "$from" || fail "refusing $from: only https, or http from this host"
        source=$scratch
        say "fetching from $from"
        fetch "$from/SHA256SUMS" "$source/SHA256SUMS"
        fetch "$from/stella.py" "$source/stella.py"
    fi
    if [ -f "$source/SHA256SUMS" ]; then
        check "$source" stella.py
        each_vendor check_vendor
        say "SHA-256 is right"
    elif [ -n "$from" ]; then
        fail "no SHA256SUMS from $from"
    fi
    # it must start before it may replace the one that does
    version=$("$python" -I -S "$source/stella.py" --version) || fail "$python cannot start $source/stella.py"

    put "$source/stella.py" "$lib/stella.py" 644
    each_vendor put_vendor
    write_launcher "$scratch/stella"
    put "$scratch/stella" "$bin/stella" 755
    if [ "$dry_run" = yes ]; then
        say "would install $version, run by $python"
        return
    fi
    # bytecode now: the users of a shared prefix could not write it later
    compiled=
    printf '%s\n' "$pythons" | while read -r name; do
        [ "$name" != "$compiled" ] || continue  # python3 is most often one of the others
        "$name" -I -c 'import sys, py_compile; py_compile.compile(sys.argv[1])' "$lib/stella.py" \
            </dev/null >/dev/null 2>&1 || :
        compiled=$name
    done
    "$bin/stella" --version >/dev/null || fail "$bin/stella does not start"
    say "installed $version: $bin/stella, run by $python"
    case :${PATH:-}: in
        *":$bin:"*) ;;
        *) say "$bin is not on PATH; to add it for this shell: export PATH=$(quoted "$bin"):\"\$PATH\"" ;;
    esac
}

remove() {  # remove PATH: a file or folder of ours
    [ -e "$1" ] || [ -L "$1" ] || return 0
    removed=yes
    if [ "$dry_run" = yes ]; then
        say "would remove $1"
    else
        rm -rf "$1"
        say "removed $1"
    fi
}

uninstall_stella() {
    removed=no
    if [ -e "$bin/stella" ] && grep -q "^$MARK" "$bin/stella" 2>/dev/null; then
        remove "$bin/stella"
    fi
    remove "$lib/stella.py"
    remove "$lib/__pycache__"
    remove "$lib/vendor"
    if [ "$dry_run" = no ] && [ -d "$lib" ]; then
        rmdir "$lib" 2>/dev/null || say "$lib holds other files and stays"
    fi
    [ "$removed" = yes ] || say "nothing of stella under $prefix"
}

main() {
    prefix=
    from=${STELLA_BASE_URL:-}
    dry_run=no
    action=install_stella
    while [ $# -gt 0 ]; do
        case $1 in
            --prefix | --from)
                [ $# -gt 1 ] && [ -n "$2" ] || fail "$1 needs a value"
                if [ "$1" = --prefix ]; then prefix=$2; else from=$2; fi
                shift ;;
            --prefix=?*) prefix=${1#*=} ;;
            --from=?*) from=${1#*=} ;;
            --dry-run) dry_run=yes ;;
            --uninstall) action=uninstall_stella ;;
            -h | --help) usage; exit 0 ;;
            *) usage >&2; exit 2 ;;
        esac
        shift
    done

    if [ -z "$prefix" ]; then
        if [ "$(id -u)" -eq 0 ]; then
            prefix=/usr/local
        else
            [ -n "${HOME:-}" ] || fail "HOME is not set: say where to with --prefix DIR"
            prefix=$HOME/.local
        fi
    fi
    case $prefix in
        /*) ;;
        *) prefix=$(pwd)/$prefix ;;
    esac
    [ "$prefix" = / ] || prefix=${prefix%/}
    bin=${prefix%/}/bin
    lib=${prefix%/}/lib/stella
    from=${from%/}

    # Read from a pipe, $0 is the shell's own name, and what lies in the current folder is not to be trusted.
    here=
    case ${0##*/} in
        install.sh) here=$(cd "$(dirname "$0")" && pwd) ;;
    esac
    if [ -z "$from" ] && { [ -z "$here" ] || [ ! -f "$here/stella.py" ]; }; then
        from=$DEFAULT_BASE_URL
    fi

    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
    "$action"
}

main "$@"
