#!/usr/bin/env bash
# From a fresh clone to a model that you trained and that answers, on one machine without a GPU.
#
#   deploy/quickstart.sh            install what is missing, build, train on two workers, generate
#   deploy/quickstart.sh --keep     leave the services running afterwards
#   deploy/quickstart.sh --cuda     build for GPUs and train on them
#   deploy/quickstart.sh --stop     stop the services that an earlier --keep left running
#
# Everything it makes lies in build/quickstart. Safe to run again.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
home=$root/build/quickstart
keep=0 cuda=0 stop=0
for arg in "$@"; do
  case $arg in
    --keep) keep=1 ;;
    --cuda) cuda=1 ;;
    --stop) stop=1 ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "quickstart.sh: unknown option '$arg'; there are --keep, --cuda and --stop" >&2; exit 2 ;;
  esac
done
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
began=$(date +%s)
say() { printf '%s[%3ds]%s %s\n' "$bold" $(($(date +%s) - began)) "$plain" "$*"; }
die() { printf 'quickstart.sh: %s\n' "$*" >&2; exit 1; }

# The services that are ours to stop: one "PID START-TIME NAME" a line, so that a recycled pid is
# never mistaken for one of them.
started_at() { awk '{print $22}' "/proc/$1/stat" 2>/dev/null || true; }
stop_services() {
  [[ -f $home/services ]] || return 0
  local pid start name
  tac "$home/services" > "$home/services.stopping"
  while read -r pid start name; do
    [[ $(started_at "$pid") == "$start" ]] && kill -TERM "$pid" 2>/dev/null
  done < "$home/services.stopping"
  while read -r pid start name; do
    for _ in $(seq 150); do
      [[ $(started_at "$pid") == "$start" ]] || break
      sleep 0.1
    done
    if [[ $(started_at "$pid") == "$start" ]]; then
      echo "quickstart.sh: $name (pid $pid) did not drain in 15 s, killing it" >&2
      kill -KILL "$pid" 2>/dev/null || true
    fi
  done < "$home/services.stopping"
  rm -f "$home/services" "$home/services.stopping"
}
mkdir -p "$home"
if [[ $stop == 1 ]]; then stop_services; exit 0; fi

# 1. Packages, LibTorch, build.
deploy/install_deps.sh build
preset=release
if [[ $cuda == 1 ]]; then
  preset=cuda
  command -v nvidia-smi >/dev/null || die "--cuda needs an NVIDIA driver; nvidia-smi is not here." \
    "Run without --cuda to train on the CPU."
  cmake/fetch_libtorch.sh --cuda
else
  cmake/fetch_libtorch.sh
fi
say "Building build/$preset (the first time takes 10 to 20 minutes on two cores) ..."
cmake --preset "$preset" > "$home/configure.log" 2>&1 || { cat "$home/configure.log"; exit 1; }
cmake --build "build/$preset" --target mindforge-coordinator mindforge-worker mindforge-trainer \
  mindforge-inference mindforge > "$home/build.log" 2>&1 || { tail -40 "$home/build.log"; exit 1; }
bin=$root/build/$preset/bin

# 2. Real text: 400 poems of the Tang and Song dynasties, and a tokenizer trained on them.
say "Preparing the corpus and its tokenizer ..."
python3 deploy/corpus/fortunes_to_jsonl.py --poems --out "$home/poems.jsonl"
"$bin/mindforge" tokenizer train --data "$home/poems.jsonl" --vocab-size 2048 \
  --out "$home/tokenizer" --overwrite > "$home/tokenizer.log" 2>&1 || { cat "$home/tokenizer.log"; exit 1; }

# 3. Services, each on a port of the kernel's choosing.
stop_services
if [[ $keep == 0 ]]; then trap stop_services EXIT; else trap 'code=$?; [[ $code == 0 ]] || stop_services' EXIT; fi
start() {  # NAME ARGS...
  local name=$1
  shift
  : > "$home/$name.log"  # now: what an earlier run printed must not be read below
  "$@" < /dev/null >> "$home/$name.log" 2>&1 &
  echo "$! $(started_at $!) $name" >> "$home/services"
}
address() {  # NAME PATTERN: the first host:port that it printed after PATTERN
  local found
  for _ in $(seq 300); do
    found=$(grep -oE "$2 (http://)?[0-9.]+:[0-9]+" "$home/$1.log" 2>/dev/null | head -1 | grep -oE '[0-9.]+:[0-9]+$' || true)
    if [[ -n $found ]]; then echo "$found"; return 0; fi
    sleep 0.1
  done
  tail -5 "$home/$1.log" >&2
  die "$1 did not start within 30 s; its log is $home/$1.log"
}
ready_workers() {
  "$bin/mindforge" -o json worker list | grep -c '"WORKER_STATE_READY"' || true
}
say "Starting a coordinator, two workers and an inference worker ..."
rm -rf "$home/coordinator" "$home/checkpoints"
start coordinator "$bin/mindforge-coordinator" --listen 127.0.0.1:0 --metrics 127.0.0.1:0 --data-dir "$home/coordinator"
server=$(address coordinator 'listening on')
export MINDFORGE_SERVER=$server
devices=cpu:1 threads=$(($(nproc) / 2))
((threads >= 1)) || threads=1
((threads <= 4)) || threads=4
workers=2
if [[ $cuda == 1 ]]; then devices=auto workers=1; fi
for i in $(seq $workers); do
  start "worker-$i" "$bin/mindforge-worker" --coordinator "$server" --name "worker-$i" --devices "$devices" \
    --threads-per-device "$threads" --metrics 127.0.0.1:0 --data-dir "$home/worker-$i"
done
cat > "$home/inference.yaml" <<YAML
max_context: 256
slots: 8
data_dir: $home/inference
YAML
start inference "$bin/mindforge-inference" --config "$home/inference.yaml" --coordinator "$server" --listen 127.0.0.1:0 \
  --metrics 127.0.0.1:0 $([[ $cuda == 1 ]] && echo --device cuda:0)

# A program that cannot start says so now, not by a job that waits for ever.
for _ in $(seq 300); do
  [[ $(ready_workers) -ge $workers ]] && break
  sleep 0.1
done
[[ $(ready_workers) -ge $workers ]] || { tail -n 5 "$home"/worker-*.log >&2; die "the workers did not register within 30 s"; }
address inference 'listening on' > /dev/null

# 4. Train with both workers.
cat > "$home/poems.yaml" <<YAML
name: poems
model: {hidden_size: 192, num_hidden_layers: 4, num_attention_heads: 6, num_key_value_heads: 2, max_position_embeddings: 512}
data: {path: $home/poems.jsonl, tokenizer: $home/tokenizer, max_seq_len: 128, packing: true}
training: {epochs: ${MINDFORGE_QUICKSTART_EPOCHS:-17}, microbatch_size: 8, accumulation_steps: 2, learning_rate: 3e-3, dtype: float32}
workers: {min: $workers, max: 2}
checkpoint: {every_steps: 100, keep_last: 2, dir: $home/checkpoints}
log_every_steps: 25
YAML
say "Training on $workers worker(s); the job file is $home/poems.yaml"
"$bin/mindforge" job submit -f "$home/poems.yaml" --follow --timeout 2h

"$bin/mindforge" -o json job get poems > "$home/job.json"
"$bin/mindforge" job metrics poems --csv > "$home/metrics.csv"
python3 - "$home/metrics.csv" "$home/job.json" <<'PY'
import csv, json, sys
rows = list(csv.DictReader(open(sys.argv[1])))
first, last = float(rows[0]["loss"]), sum(float(r["loss"]) for r in rows[-10:]) / len(rows[-10:])
shares = [r["sequences_by_rank"].replace(";", " + ") for r in rows]
shared = sum(1 for s in shares if "+" in s)
print(f"loss {first:.3f} -> {last:.3f} ({100 * last / first:.0f}% of the first)")
print(f"{shared} of {len(rows)} steps were shared by two workers (sequences of each: {shares[-1]})")
if last > 0.65 * first:
    sys.exit("quickstart.sh: the loss fell too little; the log is in build/quickstart")
PY

# 5. Serve the checkpoint and generate through the coordinator.
say "Serving the trained checkpoint ..."
"$bin/mindforge" model deploy poems --job poems --prompt-style completion
for _ in $(seq 300); do
  "$bin/mindforge" -o json model get poems > "$home/deployment.json"
  grep -q DEPLOYMENT_STATE_SERVING "$home/deployment.json" && break
  sleep 0.1
done
grep -q DEPLOYMENT_STATE_SERVING "$home/deployment.json" || { cat "$home/deployment.json"; die "the checkpoint is not served"; }
for prompt in 明月 春風 山中; do
  printf '%s%s%s' "$bold" "$prompt" "$plain"
  "$bin/mindforge" generate --model poems -p "$prompt" --max-tokens 60 --temperature 0.7 --seed 1
done

say "Done."
if [[ $keep == 1 ]]; then
  cat <<TEXT

The services go on. Try next:
  export MINDFORGE_SERVER=$server PATH=$bin:\$PATH
  mindforge job list                       what ran and how it ended
  mindforge checkpoint list poems          its checkpoints
  mindforge generate --model poems -p 秋夜
  mindforge job example > my-job.yaml      your own job: edit it, then
  mindforge job submit -f my-job.yaml --follow
  deploy/quickstart.sh --stop              stop the services
TEXT
else
  cat <<TEXT

The services are stopped. Try next:
  deploy/quickstart.sh --keep              the same, and leave them running
  $bin/mindforge job example               a job file for your own text
  README.md                                own data, serving, deployment, what to do when it fails
TEXT
fi
