#!/usr/bin/env bash
# Installs what is missing, builds, and runs all CPU tests; the exit status is the verdict.
#
#   tests/run.sh                 everything
#   tests/run.sh -R name         the tests whose name matches (arguments go to ctest)
#   PRESET=asan tests/run.sh     another preset: release (default), dev, asan, tsan, cuda
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
preset=${PRESET:-release}

deploy/install_deps.sh test
if [[ $preset == cuda ]]; then
  cmake/fetch_libtorch.sh --cuda
else
  cmake/fetch_libtorch.sh
fi

venv=.deps/venv
mkdir -p .deps build
exec 8> .deps/.venv.lock
flock 8
pins=$(sha256sum tests/requirements.txt | cut -d' ' -f1)
if [[ $(cat $venv/.stamp 2>/dev/null) != "$pins" ]]; then
  python3 -m venv $venv
  $venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
  echo "$pins" > $venv/.stamp
fi
exec 8>&-
tests/parity/make_env.sh

cmake --preset "$preset" "-DMINDFORGE_TEST_PYTHON=$root/$venv/bin/python" \
  > "build/configure-$preset.log" 2>&1 || { cat "build/configure-$preset.log"; exit 1; }
quiet=()
[[ -t 1 ]] || quiet=(-- --quiet)
echo "Building build/$preset ..." >&2
cmake --build "build/$preset" ${quiet[@]+"${quiet[@]}"}
exec ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -LE gpu \
  -j "$(nproc)" "$@"
