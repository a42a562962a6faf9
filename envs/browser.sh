#!/usr/bin/env bash
# What `make test` needs beyond `make install`: a browser, for the test that opens a report as a reader does.
set -euo pipefail
for name in chromium chromium-browser google-chrome; do
    ! command -v "$name" >/dev/null || exit 0
done
as_root=()
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || { echo "make test needs a browser: ask an administrator for apt-get install chromium" >&2; exit 1; }
    as_root=(sudo -n)
fi
echo "installing chromium with apt" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
{ "${apt[@]}" update && "${apt[@]}" install --no-install-recommends chromium; } >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
