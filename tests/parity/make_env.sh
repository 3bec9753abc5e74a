#!/usr/bin/env bash
# Makes .deps/venv-parity, the Python environment of the parity tests, from requirements.txt beside
# this file. Safe to run again and from several processes: a finished environment carries a stamp.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=$root/.deps/venv-parity
pins=$(sha256sum "$here/requirements.txt" | cut -d' ' -f1)
mkdir -p "$root/.deps"
exec 9> "$root/.deps/.venv-parity.lock"
flock 9
if [[ $(cat "$venv/.stamp" 2>/dev/null) == "$pins" ]]; then
  exit 0
fi
echo "Installing PyTorch and transformers for the parity tests (about 2 GB) ..." >&2
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
  --only-binary=:all: -r "$here/requirements.txt"
"$venv/bin/python" -c 'import safetensors.torch, torch, transformers'
echo "$pins" > "$venv/.stamp"
