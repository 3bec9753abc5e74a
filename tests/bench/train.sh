#!/usr/bin/env bash
# Training speed against transformers' Llama of the same shape, in one run, turn by turn.
#
#   tests/bench/train.sh BENCH PYTHON [rounds]
#
# BENCH: the program mindforge_bench_train; PYTHON: an interpreter with torch and transformers.
# Prints the median tokens/s of both and their ratio, per dtype. OMP_NUM_THREADS defaults to 2.
set -euo pipefail
if [[ $# -lt 2 ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
bench=$1
python=$2
rounds=${3:-3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
median() { sort -g "$1" | awk '{v[NR] = $1} END {print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2}'; }
for dtype in float32 bfloat16; do
  : > "$work/ours"
  : > "$work/peer"
  for ((round = 0; round < rounds; ++round)); do
    "$bench" "$dtype" 3 2>/dev/null >> "$work/ours"
    "$python" "$here/train_peer.py" "$dtype" 3 2>/dev/null >> "$work/peer"
  done
  ours=$(median "$work/ours")
  peer=$(median "$work/peer")
  awk -v d="$dtype" -v a="$ours" -v b="$peer" -v t="$OMP_NUM_THREADS" 'BEGIN {
    printf "train 26 M, 4 x 512, %s, %s threads: %.0f tokens/s, peer %.0f, ratio %.2f\n", d, t, a, b, a / b }'
done
