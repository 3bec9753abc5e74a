"""Upgrades: what an older build wrote opens, and a running job survives other builds of the same
numerics; with others it waits, says what to do, and goes on when it is repinned.
"""
import glob
import json
import os
import shutil
import tempfile
import unittest

from cluster import BIN, DATA, Cluster, job_file, wait_for
from upgrade_fixture import newest, weights

DAEMONS = ("mindforge-coordinator", "mindforge-worker", "mindforge-trainer")


def other_build(folder, replaced):
    """This build's programs with other constants in them, as a later build would have."""
    os.makedirs(folder)
    os.symlink(os.path.join(BIN, "mindforge"), os.path.join(folder, "mindforge"))
    for name in DAEMONS:
        with open(os.path.join(BIN, name), "rb") as file:
            program = file.read()
        for old, new in replaced.items():
            assert len(old) == len(new), (old, new)
            program = program.replace(old.encode() + b"\0", new.encode() + b"\0")
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(program)
        os.chmod(path, 0o755)
    return folder


def reasons(cluster, name):
    return " ".join(cluster.cli("job", "why", name).stdout.split())


class WhatAnOlderBuildWrote(unittest.TestCase):
    def test_a_killed_job_goes_on_to_the_older_builds_own_result(self):
        with tempfile.TemporaryDirectory() as folder:
            here = os.path.join(folder, "upgrade")
            shutil.copytree(os.path.join(DATA, "upgrade"), here)
            with open(os.path.join(here, "expected.json"), encoding="utf-8") as file:
                expected = json.load(file)
            with Cluster(cwd=here) as cluster:
                os.symlink(os.path.join(here, "store"), cluster.path("coordinator"))
                os.symlink(os.path.join(here, "worker"), cluster.path("worker"))
                cluster.start_coordinator()
                before = cluster.job("poems")
                self.assertEqual(before["device_signature"], expected["device_signature"])
                listed = cluster.json("checkpoint", "list", "poems")["checkpoints"]
                self.assertEqual([int(c["step"]) for c in listed], [20, 10])
                cluster.start_worker("worker")
                same_bits = self.goes_on(cluster, int(before["progress"]["step"]), expected)
                done = cluster.wait_job("poems", "SUCCEEDED")
                self.assertEqual(int(done["progress"]["step"]), expected["steps"])
                if same_bits:
                    self.assertEqual(weights(newest(here)), expected["result_sha256"])
                    self.assertIn("the same bits", reasons(cluster, "poems"))
                self.assertNotIn("0.1.0", done["device_signature"])
                self.use_checkpoints(cluster, here)
                if not same_bits:
                    self.skipTest("THE BITS WERE NOT COMPARED: this processor is not one of "
                                  + expected["device_signature"])

    def goes_on(self, cluster, step, expected):
        """Repins where this processor has other bits than the one it was written on."""
        def placed():
            job = cluster.job("poems")
            if job["state"] == "JOB_STATE_QUEUED" and "job repin" in job.get("reason", ""):
                return "waits"
            # Until the new worker is heard of it is still as it was when it was killed.
            return int(job["progress"]["step"]) > step and "runs"
        if wait_for(placed, "the job to be placed, or to say why not") == "runs":
            return True
        self.assertIn(expected["device_signature"], reasons(cluster, "poems"))
        cluster.cli("job", "repin", "poems")
        return False

    def use_checkpoints(self, cluster, here):
        """Of today's and of the older build: list, verify, export, serve."""
        steps = [int(c["step"]) for c in cluster.json("checkpoint", "list", "poems")["checkpoints"]]
        for step in steps:
            cluster.cli("checkpoint", "verify", "poems", str(step))
        old = os.path.join(here, "old")
        with tempfile.TemporaryDirectory() as out:
            for kind, step in (("hf", steps[0]), ("pth", steps[0]), ("gguf", steps[0])):
                cluster.cli("checkpoint", "export", "poems", str(step), "--format", kind, "--out",
                            os.path.join(out, kind))
                self.assertTrue(os.listdir(out), kind)
        # The older build's own checkpoint, which retention has let go of here meanwhile.
        shutil.copytree(glob.glob(os.path.join(DATA, "upgrade", "checkpoints", "*", "step-20.*"))[0],
                        old)
        cluster.start_inference()
        cluster.cli("model", "deploy", "poems", "--job", "poems")
        cluster.cli("model", "deploy", "old", "--path", old)
        for name in ("poems", "old"):
            cluster.start_inference(f"serve-{name}")
        for name in ("poems", "old"):
            answer = wait_for(
                lambda name=name: (lambda done: done.returncode == 0 and done)(cluster.cli(
                    "generate", "--model", name, "-p", "moon", "--max-tokens", "4", check=False)),
                f"{name} to answer")
            self.assertTrue(answer.stdout)


class ARunningJob(unittest.TestCase):
    def replace_all(self, cluster, programs):
        """kill -9 of coordinator, agent and trainer, and another build in their places."""
        cluster.coordinator.kill()
        self.worker.kill()
        cluster.programs_folder = programs
        cluster.start_coordinator(cluster.server)
        self.worker = cluster.start_worker("w1")

    def test_survives_a_later_build_and_waits_for_its_numerics(self):
        with tempfile.TemporaryDirectory() as folder, Cluster() as cluster:
            later = other_build(os.path.join(folder, "later"), {"0.1.0": "0.1.9"})
            moved = other_build(os.path.join(folder, "moved"),
                                {"0.1.0": "0.2.0", "train-f32-1": "train-f32-7"})
            cluster.start_coordinator()
            self.worker = cluster.start_worker("w1")
            cluster.cli("job", "submit", "-f", job_file(
                cluster, "long", workers__max=1, training__epochs=1000, training__max_steps=100000,
                checkpoint__every_steps=5))
            wait_for(lambda: cluster.job("long")["last_checkpoint_step"] not in ("-1", "0"),
                     "a checkpoint")
            pinned = cluster.job("long")["device_signature"]
            self.assertIn("train-f32-1", pinned)

            step = cluster.step("long")
            self.replace_all(cluster, later)
            wait_for(lambda: cluster.step("long") > step + 5, "the job to go on in a later build")
            job = cluster.job("long")
            self.assertEqual(job["device_signature"], pinned)
            self.assertEqual(int(job.get("failures", 0)), 0)
            versions = {w["version"] for w in cluster.json("worker", "list")["workers"]}
            self.assertEqual(versions, {"0.1.9"})

            self.replace_all(cluster, moved)
            job = wait_for(lambda: (lambda j: j["state"] == "JOB_STATE_QUEUED" and "repin" in
                                    j["reason"] and j)(cluster.job("long")), "the job to wait")
            self.assertEqual(int(job.get("failures", 0)), 0)
            self.assertIn(pinned, reasons(cluster, "long"))
            self.assertIn("train-f32-7", reasons(cluster, "long"))
            self.assertIn("mindforge job repin long", reasons(cluster, "long"))

            cluster.cli("job", "repin", "long")
            since = int(cluster.job("long")["last_checkpoint_step"])
            wait_for(lambda: int(cluster.job("long")["last_checkpoint_step"]) > since, "a checkpoint")
            self.assertIn("repinned as asked", reasons(cluster, "long"))
            newest_path = cluster.json("checkpoint", "list", "long")["checkpoints"][0]["path"]
            with open(os.path.join(newest_path, "state.json"), encoding="utf-8") as file:
                history = json.load(file)["numerics_history"]
            self.assertEqual([entry["name"] for entry in history],
                             [pinned, pinned.replace("train-f32-1", "train-f32-7")])
            running = cluster.cli("job", "repin", "long", check=False)
            self.assertNotEqual(running.returncode, 0)
            self.assertIn("job pause long", running.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
