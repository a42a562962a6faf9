#!/usr/bin/env bash
# What `make install` runs: system libraries, .venv, every package of the lock file, the package itself, a check.
# The stamp .venv/installed holds the digest of what was installed; the same digest installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/installed
log=.venv/install.log
system_packages=(git sox libsox-dev g++ python3-dev python3-venv)

say() { printf '%s\n' "$*" >&2; }

digest() { cat envs/sedflow.lock envs/build.lock pyproject.toml envs/install.sh | sha256sum; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Names what is missing of: git, sox, sox.h with a C++ compiler, and a Python with headers and venv.
missing_from_the_system() {
    local python
    command -v git >/dev/null || echo git
    command -v sox >/dev/null || echo sox
    printf '#include <sox.h>\n' | c++ -E -x c++ - >/dev/null 2>&1 || echo "sox.h or a C++ compiler"
    python=$(find_python) || { echo "Python 3.11 or 3.12"; return; }
    "$python" -c 'import ensurepip, os, sysconfig as s; os.stat(s.get_paths()["include"] + "/Python.h")' \
        2>/dev/null || echo "venv or the headers of $python"
}

install_system_packages() {
    local missing as_root=()
    missing=$(missing_from_the_system)
    [ -n "$missing" ] || return 0
    say "missing on this system: ${missing//$'\n'/, }"
    if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then as_root=(sudo -n); fi
    if ! command -v apt-get >/dev/null || { [ "$(id -u)" != 0 ] && [ ${#as_root[@]} = 0 ]; }; then
        say "To install it, apt and root are needed. Either ask an administrator for"
        say "    apt-get install ${system_packages[*]}"
        say "or use conda, which needs no root:"
        say "    conda env create -f envs/conda.yaml && conda activate sedflow && make install"
        exit 1
    fi
    say "installing ${system_packages[*]} with apt"
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
    { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${system_packages[@]}"; } >"$apt_log" 2>&1 ||
        { cat "$apt_log" >&2; exit 1; }
    missing=$(missing_from_the_system)
    [ -z "$missing" ] || { say "still missing: ${missing//$'\n'/, }; set PYTHON=… to a Python 3.11 or 3.12"; exit 1; }
}

# uv does not read pip's configuration: hand it the registry and the certificates that pip was told to use.
install_with_uv() {
    local settings index cert
    .venv/bin/python -m pip install -q --require-hashes -r <(sed -n '/^uv==/,/[^\\]$/p' envs/sedflow.lock) || return
    settings=$(.venv/bin/python -m pip config list)
    index=$(sed -n "s/^[^=]*\.index-url='\(.*\)'$/\1/p" <<<"$settings" | tail -n 1)
    cert=$(sed -n "s/^[^=]*\.cert='\(.*\)'$/\1/p" <<<"$settings" | tail -n 1)
    [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    [ -z "$cert" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"
    [ ! -s /etc/ssl/certs/ca-certificates.crt ] || export UV_SYSTEM_CERTS=true
    local install=(.venv/bin/uv pip install -q --python .venv/bin/python)
    "${install[@]}" --require-hashes -r envs/sedflow.lock -b envs/build.lock &&
        "${install[@]}" --no-deps --no-build-isolation --editable .
}

install_with_pip() {
    PIP_CONSTRAINT=envs/build.lock PIP_BUILD_CONSTRAINT=envs/build.lock \
        .venv/bin/python -m pip install --require-hashes -r envs/sedflow.lock &&
        .venv/bin/python -m pip install --no-deps --no-build-isolation --editable .
}

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(digest)" ]; then
    touch "$stamp"
    exit 0
fi

apt_log=$(mktemp)
trap 'rm -f "$apt_log"' EXIT
if [ -n "${CONDA_PREFIX:-}" ]; then # conda keeps sox.h and libsox to itself
    export CPATH="$CONDA_PREFIX/include${CPATH:+:$CPATH}" LIBRARY_PATH="$CONDA_PREFIX/lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
    export LDFLAGS="-Wl,-rpath,$CONDA_PREFIX/lib ${LDFLAGS:-}"
fi
install_system_packages
python=$(find_python)
say "installing into .venv with $("$python" --version) (some minutes, about 6 GB)"
base='import os, sys; print(os.path.realpath(sys._base_executable))'
if [ "$(.venv/bin/python -c "$base" 2>/dev/null)" = "$("$python" -c "$base")" ]; then
    "$python" -m venv .venv
else # none yet, or of another Python, whose files would mix
    "$python" -m venv --clear .venv
fi
if ! install_with_uv 2>"$log"; then
    say "uv could not (see $log); trying pip, which takes longer"
    install_with_pip >>"$log" 2>&1 || { tail -n 30 "$log" >&2; exit 1; }
fi
env -u PYTHONDONTWRITEBYTECODE .venv/bin/python - <<'PYTHON'
import sys
from sedflow import doctor
findings = doctor.installation()
if doctor.exit_code(findings):
    doctor.show(findings)
    sys.exit(1)
PYTHON
digest >"$stamp"
