#!/bin/sh
# Decoding speed against transformers' Llama with KV cache: same weights, same threads, one run.
# Then a mixture of experts against a loop in PyTorch, for which no ratio is wanted.
# Exit 0 when the wanted ratios are reached (batch 1: 2x, batch 32: 1.2x).
#
#   tests/bench/decode.sh [BUILD_DIR]
#   PYTHON   a Python with torch and transformers (default python3)
#   THREADS  threads of each side (default 2)
#   ROUNDS   alternations of the two (default 2)
#   RUN      a command put before each timed program, for example to keep others off the CPUs
set -eu
cd "$(dirname "$0")/../.."
build=${1:-build/release}
python=${PYTHON:-python3}
threads=${THREADS:-2}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# compare NAME [--moe]: alternates the two sides and reports.
compare() {
  name=$1 kind=${2:-} round=0
  "$python" tests/bench/decode_peer.py make "$folder/$name" $kind
  while [ "$round" -lt "${ROUNDS:-2}" ]; do
    for dtype in f32 bf16; do
      ${RUN:-} "$python" tests/bench/decode_peer.py run "$folder/$name" --threads "$threads" --dtype $dtype $kind \
        | tee -a "$folder/$name.peer.jsonl"
      ${RUN:-} "$build/bin/mindforge_bench_decode" --model "$folder/$name" --threads "$threads" --dtype $dtype \
        | tee -a "$folder/$name.own.jsonl"
    done
    round=$((round + 1))
  done
  "$python" tests/bench/decode_peer.py report "$folder/$name.peer.jsonl" "$folder/$name.own.jsonl" $kind
}
status=0
compare dense || status=1
compare moe --moe || status=1
exit $status
