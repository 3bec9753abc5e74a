#!/usr/bin/env bash
# Builds the GPU programs on a machine that need not have a GPU, and bundles them with the
# distribution's shared libraries they use, for a GPU host that has neither.
#
#   deploy/bundle_gpu.sh [FOLDER]     default .gpu; holds bin/, lib/ and env.sh
#
# The host needs an NVIDIA driver for CUDA 13 and a Python with torch 2.11.0+cu130, whose libraries
# the programs use (PYTHON names it; default python3). There:
#
#   . FOLDER/env.sh && FOLDER/bin/mindforge-coordinator ...
#
# MINDFORGE_BUNDLE_EXTRA names other programs of the build to take along, tests too (they look for their
# data in MINDFORGE_TEST_DATA): "mindforge_bench_train model_gpu_test", say. MINDFORGE_BUNDLE_PROGRAMS
# in place of the programs above.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
out=${1:-.gpu}
if [[ -e $out && ! -f $out/env.sh && -n $(ls -A "$out" 2>&1) ]]; then
  echo "bundle_gpu.sh: $out holds something else than an earlier bundle; name another folder" >&2
  exit 1
fi
libtorch=${MINDFORGE_LIBTORCH:-$root/.deps/libtorch}

deploy/install_deps.sh build
if [[ $libtorch == "$root/.deps/libtorch" ]]; then
  cmake/fetch_libtorch.sh --cuda
fi
cmake --preset cuda "-DMINDFORGE_LIBTORCH=$libtorch" > /dev/null
all='mindforge-coordinator mindforge-worker mindforge-trainer mindforge-inference mindforge'
read -ra programs <<< "${MINDFORGE_BUNDLE_PROGRAMS:-$all} ${MINDFORGE_BUNDLE_EXTRA:-}"
cmake --build build/cuda --target "${programs[@]}"

rm -rf "$out/bin" "$out/lib" "$out/env.sh"
mkdir -p "$out/bin" "$out/lib"
for program in "${programs[@]}"; do
  file=build/cuda/bin/$program
  if [[ ! -e $file ]]; then file=build/cuda/tests/$program; fi
  cp "$file" "$out/bin/"
  strip "$out/bin/$program"
  # Everything but the C library, the driver and what comes with torch.
  ldd "$file" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
    grep -vE "^($libtorch|$(dirname "$libtorch")/nvidia)|/(libc|libm|libdl|librt|libpthread|libcuda|libgcc_s|libstdc\+\+|ld-linux[^/]*)\.so" |
    while read -r library; do cp -Lu "$library" "$out/lib/"; done
done
cat > "$out/env.sh" <<'ENV'
# Sourced on the GPU host: puts the bundle's libraries and torch's on the path.
_bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
_site=$("${PYTHON:-python3}" -c 'import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))')
export LD_LIBRARY_PATH=$_bundle/lib:$_site/torch/lib:$_site/nvidia/cu13/lib:$_site/nvidia/nccl/lib:$_site/nvidia/cudnn/lib:$_site/nvidia/cusparselt/lib:$_site/nvidia/nvshmem/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export PATH=$_bundle/bin:$PATH
ENV
echo "Bundle of $(du -sh "$out" | cut -f1) in $out" >&2
