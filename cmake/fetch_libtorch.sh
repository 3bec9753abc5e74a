#!/usr/bin/env bash
# Unpacks LibTorch 2.11.0 into .deps/libtorch from the wheels whose versions and SHA-256 are pinned
# beside this file. Safe to run again: a finished folder carries a stamp and is left alone.
#
#   cmake/fetch_libtorch.sh            what the CPU programs need (550 MB)
#   cmake/fetch_libtorch.sh --cuda     also libtorch_cuda, and in .deps/nvidia the libraries and
#                                      headers it needs (2.5 GB), and where there is no CUDA 13
#                                      toolkit its compiler (0.1 GB)
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

# download FOLDER PIP_ARGUMENTS...: wheels for the machines that we build for, checked against pins.
download() {
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_25_x86_64 --platform manylinux_2_18_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux_2_12_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --require-hashes "${@:2}" -d "$1"
}

# CUDA's compiler into .deps/nvidia/cu13, unless a toolkit of that version is installed.
fetch_compiler() {
  local nvcc work
  for nvcc in nvcc /usr/local/cuda/bin/nvcc "$root/.deps/nvidia/cu13/bin/nvcc"; do
    if "$nvcc" --version 2>&1 | grep -q 'release 13\.'; then return; fi
  done
  echo "Fetching CUDA's compiler (about 100 MB) ..." >&2
  work=$(mktemp -d "$root/.deps/fetch.XXXXXX")
  download "$work" -r "$here/cuda-compiler-wheels.txt"
  for wheel in "$work"/*.whl; do python3 -m zipfile -e "$wheel" "$work"; done
  chmod +x "$work"/nvidia/cu13/bin/* "$work"/nvidia/cu13/nvvm/bin/*
  cp -r "$work/nvidia/cu13" "$root/.deps/nvidia/"
  rm -rf "$work"
}

pins=(-r "$here/libtorch-wheels.txt")
if [[ $cuda == 1 ]]; then pins+=(-r "$here/libtorch-cuda-wheels.txt"); fi
want="$(cat "$here"/libtorch-*wheels.txt | sha256sum | cut -d' ' -f1) cuda=$cuda"
have=$(cat "$out/.stamp" 2>/dev/null || true)
if [[ $have == "$want" || ($cuda == 0 && $have == "${want%0}1") ]]; then
  if [[ $cuda == 1 ]]; then fetch_compiler; fi
  exit 0
fi
if [[ $(uname -m) != x86_64 ]]; then
  echo "fetch_libtorch.sh: LibTorch is pinned for x86_64 only, this machine is $(uname -m)" >&2
  exit 1
fi
mkdir -p "$root/.deps"
work=$(mktemp -d "$root/.deps/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
if [[ $cuda == 1 ]]; then size='2.5 GB'; else size='550 MB'; fi
echo "Fetching LibTorch 2.11.0 (about $size) ..." >&2
download "$work/wheels" "${pins[@]}"
python3 - "$work" "$cuda" <<'PY'
# unzip is not everywhere; Python is needed for pip anyway.
import fnmatch, glob, os, shutil, sys, zipfile
work, cuda = sys.argv[1], sys.argv[2] == "1"
skip = ["*/libtorch_python*"]
if not cuda:
    skip += ["*/libtorch_cuda*", "*/libtorch_nvshmem*", "*/libc10_cuda*", "*/libcaffe2_nvrtc*"]
# libtorch_cpu.so needs these two as well, and finds them beside itself.
beside = ["nvidia/*/lib/libcudart.so*", "nvidia/*/lib/libcupti.so*"]
kinds = [("libtorch", 1, ["torch/lib/*.so*", "torch/include/*"]), ("libtorch", 2, beside)]
if cuda:
    kinds.append(("nvidia", 1, ["nvidia/*/lib/*.so*", "nvidia/*/include/*"]))
for wheel in glob.glob(work + "/wheels/*.whl"):
    with zipfile.ZipFile(wheel) as z:
        for name in z.namelist():
            if name.endswith("/") or any(fnmatch.fnmatch(name, s) for s in skip):
                continue
            for folder, strip, patterns in kinds:
                if not any(fnmatch.fnmatch(name, p) for p in patterns):
                    continue
                target = os.path.join(work, folder, *name.split("/")[strip:])
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with z.open(name) as source, open(target, "wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
PY
echo "$want" > "$work/libtorch/.stamp"
rm -rf "$out"  # first: the stamp must not outlive what it vouches for
if [[ $cuda == 1 ]]; then
  rm -rf "$root/.deps/nvidia"
  mv "$work/nvidia" "$root/.deps/nvidia"
fi
mv "$work/libtorch" "$out"
if [[ $cuda == 1 ]]; then fetch_compiler; fi
echo "LibTorch is in $out" >&2
