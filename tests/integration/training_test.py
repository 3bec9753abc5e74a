"""One job, four world sizes, one result; and a job that is resubmitted, watched and read back."""
import csv
import hashlib
import io
import json
import os
import unittest

from cluster import Cluster, job_file, wait_for


def weights_digest(cluster, job):
    newest = cluster.json("checkpoint", "list", job)["checkpoints"][0]
    with open(os.path.join(newest["path"], "model.safetensors"), "rb") as file:
        return int(newest["step"]), hashlib.sha256(file.read()).hexdigest()


class Training(unittest.TestCase):
    def test_the_result_does_not_depend_on_the_world_size(self):
        with Cluster() as cluster:
            cluster.start_coordinator()
            cluster.start_worker("w1", devices="cpu:2")
            cluster.start_worker("w2", devices="cpu:2")
            wait_for(lambda: len(cluster.json("worker", "list").get("workers", [])) == 2, "workers")
            digests = {}
            for world_size in (1, 2, 3, 4):
                name = f"size-{world_size}"
                # 5 microbatches a step leave a tree that no power of two fits.
                cluster.cli("job", "submit", "-f", job_file(
                    cluster, name, workers__min=world_size, workers__max=world_size,
                    training__max_steps=12, training__accumulation_steps=5))
                job = cluster.wait_job(name, "SUCCEEDED")
                digests[world_size] = weights_digest(cluster, name)
                rows = list(csv.DictReader(io.StringIO(
                    cluster.cli("job", "metrics", name, "--csv").stdout)))
                self.assertEqual([int(row["step"]) for row in rows], list(range(1, 13)))
                self.assertEqual({int(row["world_size"]) for row in rows}, {world_size}, job)
            self.assertEqual(len(set(digests.values())), 1, digests)

    def test_a_job_is_seen_from_every_side(self):
        with Cluster() as cluster:
            cluster.start_coordinator()
            queued = job_file(cluster, "seen", training__max_steps=20)
            first = cluster.json("job", "submit", "-f", queued, "--request-id", "r1")
            again = cluster.json("job", "submit", "-f", queued, "--request-id", "r1")
            self.assertEqual(first["id"], again["id"])
            why = cluster.cli("job", "why", "seen").stdout
            self.assertIn("QUEUED", why)
            self.assertRegex(why, r"device|worker")
            cluster.start_worker("w1", devices="cpu:2")
            done = cluster.cli("job", "watch", "seen")
            self.assertEqual(done.returncode, 0)
            job = cluster.job("seen")
            self.assertEqual(job["state"], "JOB_STATE_SUCCEEDED")
            losses = [float(row["loss"]) for row in csv.DictReader(io.StringIO(
                cluster.cli("job", "metrics", "seen", "--csv").stdout))]
            self.assertLess(losses[-1], losses[0])
            self.assertIn("Epoch:[1/1](20/60) loss:", cluster.cli("job", "logs", "seen").stdout)
            listed = cluster.json("checkpoint", "list", "seen")["checkpoints"]
            self.assertEqual([int(c["step"]) for c in listed], [20, 10])
            verified = cluster.cli("checkpoint", "verify", "seen", "20")
            self.assertEqual(verified.returncode, 0, verified.stderr)
            # A flipped byte is found, named, and the exit status says so.
            with open(os.path.join(listed[1]["path"], "optimizer.safetensors"), "r+b") as file:
                file.seek(-1, os.SEEK_END)
                last = file.read(1)
                file.seek(-1, os.SEEK_END)
                file.write(bytes([last[0] ^ 1]))
            broken = cluster.cli("checkpoint", "verify", "seen", "10", check=False)
            self.assertEqual(broken.returncode, 1, broken.stdout)
            self.assertIn("optimizer.safetensors", broken.stdout + broken.stderr)
            self.assertIn("seen", json.dumps(cluster.json("job", "list")))


if __name__ == "__main__":
    unittest.main(verbosity=2)
