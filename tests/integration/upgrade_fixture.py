"""Writes tests/data/upgrade: what a build leaves behind that is killed while a job runs.

usage: MINDFORGE_BIN=<that build's programs> upgrade_fixture.py FOLDER

Run once with the programs of the build that later ones must go on from; upgrade_test.py opens it.
Every path in it begins with /proc/self/cwd, so that it opens wherever it lies: programs run in it.
"""
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys

from cluster import BIN, Cluster, wait_for, write_corpus

HERE = "/proc/self/cwd"
STEPS, EVERY = 40, 10  # long ones, so that few records make a kill in time


def job(name):
    return {
        "name": name,
        "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                  "num_key_value_heads": 1, "max_position_embeddings": 64},
        "data": {"path": f"{HERE}/data.jsonl", "tokenizer": f"{HERE}/tokenizer",
                 "max_seq_len": 48, "packing": True},
        "training": {"epochs": 1000, "microbatch_size": 8, "accumulation_steps": 32,
                     "learning_rate": 1e-3, "dtype": "float32", "max_steps": STEPS},
        "workers": {"min": 1, "max": 1, "device": "cpu"},
        "checkpoint": {"every_steps": EVERY, "keep_last": 2, "dir": f"{HERE}/checkpoints"},
    }


def submit(cluster, name):
    path = cluster.path(f"{name}.yaml")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(job(name), file)
    cluster.cli("job", "submit", "-f", path)


def weights(folder):
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def newest(folder):
    found = glob.glob(os.path.join(folder, "checkpoints", "*", "step-*"))
    return max(found, key=lambda path: int(path.rsplit("-", 1)[1].split(".")[0]))


def uninterrupted(inputs):
    """The result of the job when nothing happens to it, and what it was pinned to."""
    with Cluster(cwd=inputs) as cluster:
        cluster.start_coordinator()
        cluster.start_worker("worker")
        submit(cluster, "whole")
        done = cluster.wait_job("whole", "SUCCEEDED")
        result = weights(newest(inputs))
        shutil.rmtree(os.path.join(inputs, "checkpoints"))
        return result, done["device_signature"]


def killed_amid(inputs):
    """Leaves store, agent and checkpoints of a running job, as kill -9 leaves them."""
    with Cluster(cwd=inputs) as cluster:
        cluster.start_coordinator()
        worker = cluster.start_worker("worker")
        submit(cluster, "poems")
        wait_for(lambda: cluster.step("poems") > 2 * EVERY + 1, "the steps after its second checkpoint")
        cluster.coordinator.kill()
        worker.kill()
        shutil.copytree(cluster.path("coordinator"), os.path.join(inputs, "store"),
                        ignore=shutil.ignore_patterns("*-shm", "*.lock"))
        shutil.copytree(cluster.path("worker"), os.path.join(inputs, "worker"),
                        ignore=shutil.ignore_patterns("lock"))


def main():
    inputs = os.path.abspath(sys.argv[1])
    os.makedirs(inputs, exist_ok=True)
    write_corpus(os.path.join(inputs, "data.jsonl"), 60)
    subprocess.run([os.path.join(BIN, "mindforge"), "tokenizer", "train", "--data",
                    os.path.join(inputs, "data.jsonl"), "--vocab-size", "320", "--out",
                    os.path.join(inputs, "tokenizer")], check=True)
    result, signature = uninterrupted(inputs)
    killed_amid(inputs)
    shutil.rmtree(os.path.join(inputs, ".mindforge-cache"), ignore_errors=True)
    with open(os.path.join(inputs, "expected.json"), "w", encoding="utf-8") as file:
        json.dump({"result_sha256": result, "device_signature": signature, "steps": STEPS},
                  file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
