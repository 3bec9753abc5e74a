#!/bin/sh
# Decoding speed against transformers' Llama with KV cache: same weights, same threads, one run.
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
"$python" tests/bench/decode_peer.py make "$folder/model"
round=0
while [ "$round" -lt "${ROUNDS:-2}" ]; do
  for dtype in f32 bf16; do
    ${RUN:-} "$python" tests/bench/decode_peer.py run "$folder/model" --threads "$threads" --dtype $dtype \
      | tee -a "$folder/peer.jsonl"
    ${RUN:-} "$build/bin/mindforge_bench_decode" --model "$folder/model" --threads "$threads" --dtype $dtype \
      | tee -a "$folder/own.jsonl"
  done
  round=$((round + 1))
done
"$python" tests/bench/decode_peer.py report "$folder/peer.jsonl" "$folder/own.jsonl"
