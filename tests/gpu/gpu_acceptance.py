"""On a machine with a GPU: train the 26 M model in bfloat16 through coordinator and agent, serve its
checkpoint on the GPU and on the CPU, and compare the first 32 greedy tokens (float32 both).

    . .gpu/env.sh && MINDFORGE_BIN=.gpu/bin python3 tests/gpu/gpu_acceptance.py CORPUS.jsonl [STEPS]

Prints tokens per second over the second half of the run. Not part of the CPU suite.
"""
import csv
import io
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from cluster import Cluster, job_file, wait_for  # noqa: E402  (the path must be set first)


def train(cluster, corpus, steps):
    path = job_file(
        cluster, "gpu-26m", model={"hidden_size": 512, "num_hidden_layers": 8},
        data__path=os.path.abspath(corpus), data__max_seq_len=512, training__epochs=100000,
        training__microbatch_size=32, training__accumulation_steps=8,
        training__learning_rate=5e-4, training__dtype="bfloat16", training__max_steps=steps,
        workers__max=1, workers__device="cuda", checkpoint__every_steps=100, log_every_steps=20)
    began = time.monotonic()
    cluster.cli("job", "submit", "-f", path)
    cluster.wait_job("gpu-26m", "SUCCEEDED", 450)
    print(f"submit to SUCCEEDED: {time.monotonic() - began:.1f} s")
    rows = list(csv.DictReader(io.StringIO(
        cluster.cli("job", "metrics", "gpu-26m", "--csv").stdout)))
    losses = [float(row["loss"]) for row in rows]
    rates = sorted(float(row["tokens_per_second"]) for row in rows[len(rows) // 2:])
    print(f"{len(rows)} steps, loss {losses[0]:.4f} -> {losses[-1]:.4f}, "
          f"median {rates[len(rates) // 2]:,.0f} tokens/s")
    print("last step:", rows[-1])
    assert losses[-1] < 0.7 * losses[0], "the loss did not fall"
    print(cluster.cli("job", "logs", "gpu-26m").stdout[-1500:])


def generate(cluster, device):
    config = cluster.path(f"{device}.yaml".replace(":", "-"))
    with open(config, "w", encoding="ascii") as file:
        file.write(f"slots: 4\nmax_context: 256\ndtype: float32\nthreads: 8\n"
                   f"data_dir: {cluster.path('inference-' + device.replace(':', '-'))}\n")
    server = cluster.start_inference("serve-" + device.replace(":", "-"),
                                     ["--config", config, "--device", device])
    cluster.cli("model", "deploy", "gpu", "--job", "gpu-26m")
    wait_for(lambda: "SERVING" in cluster.cli("model", "get", "gpu", "-o", "json").stdout,
             f"{device} to serve", 120)
    answers = []
    for prompt in ("The moon", "明月", "There was a", "A programmer"):
        answer = cluster.json("generate", "--model", "gpu", "-p", prompt, "--max-tokens", "32",
                              "--temperature", "0")
        answers.append(answer)
    long = cluster.json("generate", "--model", "gpu", "-p", "The moon", "--max-tokens", "200",
                        "--temperature", "0")
    print(f"{device}, batch 1:", (long.get("results") or [long])[0].get("timings"))
    server.terminate()
    cluster.cli("model", "delete", "gpu")
    return answers


def token_ids(answer):
    results = answer.get("results") or [answer]
    return [int(i) for i in results[0]["token_ids"]]


def main():
    corpus, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 300
    with Cluster() as cluster:
        cluster.start_coordinator()
        cluster.start_worker("gpu-worker", devices="cuda:0", threads=4)
        train(cluster, corpus, steps)
        on_gpu, on_cpu = generate(cluster, "cuda:0"), generate(cluster, "cpu")
        for gpu, cpu in zip(on_gpu, on_cpu):
            print("GPU", token_ids(gpu))
            print("CPU", token_ids(cpu))
            assert token_ids(gpu) == token_ids(cpu), "GPU and CPU disagree"
        print("the first 32 greedy tokens agree on GPU and CPU")


main()
