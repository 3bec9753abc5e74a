#!/usr/bin/env bash
# Training speed against Python models of the same shape, in one run, turn by turn: a dense one
# against transformers' Llama, a mixture of experts against the reference's training loop.
#
#   tests/bench/train.sh BENCH PYTHON [rounds] [dense|moe_small]
#
# BENCH: the program mindforge_bench_train; PYTHON: an interpreter with torch and transformers.
# Prints the median tokens/s of both and their ratio, per model and dtype. OMP_NUM_THREADS defaults
# to 2.
set -euo pipefail
if [[ $# -lt 2 ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
bench=$1
python=$2
rounds=${3:-3}
models=${4:-dense moe_small}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { tail -20 "$work/err" >&2; exit 1; }
median() { sort -g "$1" | awk '{v[NR] = $1} END {print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2}'; }
for model in $models; do
  if [[ $model == moe_small ]]; then
    peer=$here/train_moe_peer.py title='4 experts, top 2, 1 shared, 95 M'
  else
    peer=$here/train_peer.py title='dense, 26 M'
  fi
  for dtype in float32 bfloat16; do
    : > "$work/ours"
    : > "$work/peer"
    for ((round = 0; round < rounds; ++round)); do
      "$bench" "$dtype" 3 4 512 cpu "$model" 2> "$work/err" >> "$work/ours" || fail
      "$python" "$peer" "$dtype" 3 2> "$work/err" >> "$work/peer" || fail
    done
    awk -v m="$title" -v d="$dtype" -v a="$(median "$work/ours")" -v b="$(median "$work/peer")" \
      -v t="$OMP_NUM_THREADS" 'BEGIN {
        printf "train %s, 4 x 512, %s, %s threads: %.0f tokens/s, peer %.0f, ratio %.2f\n",
          m, d, t, a, b, a / b }'
  done
done
