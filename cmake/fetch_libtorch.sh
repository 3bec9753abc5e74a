#!/usr/bin/env bash
# Unpacks LibTorch 2.11.0 into .deps/libtorch from PyPI's wheels, versions and SHA-256 pinned in
# libtorch-wheels.txt. Safe to run again: a finished folder carries a stamp and is left alone.
#
#   cmake/fetch_libtorch.sh            what the CPU programs need
#   cmake/fetch_libtorch.sh --cuda     also libtorch_cuda and its headers' NCCL
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
cuda=0
for arg in "$@"; do
  case $arg in
    --cuda) cuda=1 ;;
    *) echo "fetch_libtorch.sh: unknown option '$arg'; the only one is --cuda" >&2; exit 2 ;;
  esac
done
out=$root/.deps/libtorch
pins="$here/libtorch-wheels.txt"
stamp="$out/.stamp"
want="$(sha256sum "$pins" | cut -d' ' -f1) cuda=$cuda"
have=$(cat "$stamp" 2>/dev/null || true)
if [[ $have == "$want" || ($cuda == 0 && $have == "${want%0}1") ]]; then
  exit 0
fi
if [[ $(uname -m) != x86_64 ]]; then
  echo "fetch_libtorch.sh: LibTorch is pinned for x86_64 only, this machine is $(uname -m)" >&2
  exit 1
fi
mkdir -p "$root/.deps"
work=$(mktemp -d "$root/.deps/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "Fetching LibTorch 2.11.0 (about 550 MB) ..." >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --python-version 3.11 --implementation cp --abi cp311 --abi none \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
  --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
  --require-hashes -r "$pins" -d "$work/wheels"
python3 - "$work" "$cuda" <<'PY'
# unzip is not everywhere; Python is needed for pip anyway.
import fnmatch, glob, os, sys, zipfile
work, cuda = sys.argv[1], sys.argv[2] == "1"
skip = ["*/libtorch_python*"]
if not cuda:
    skip += ["*/libtorch_cuda*", "*/libtorch_nvshmem*", "*/libc10_cuda*", "*/libcaffe2_nvrtc*"]
want = ["torch/lib/*.so*", "torch/include/*", "nvidia/*/lib/*.so*"]
if cuda:
    want += ["nvidia/*/include/*"]
for wheel in glob.glob(work + "/wheels/*.whl"):
    with zipfile.ZipFile(wheel) as z:
        for name in z.namelist():
            if name.endswith("/") or any(fnmatch.fnmatch(name, s) for s in skip):
                continue
            if not any(fnmatch.fnmatch(name, w) for w in want):
                continue
            parts = name.split("/")
            base = parts[1:] if parts[0] == "torch" else parts[2:]
            target = os.path.join(work, "tree", *base)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with z.open(name) as src, open(target, "wb") as dst:
                while chunk := src.read(1 << 20):
                    dst.write(chunk)
PY
echo "$want" > "$work/tree/.stamp"
rm -rf "$out"
mv "$work/tree" "$out"
echo "LibTorch is in $out" >&2
