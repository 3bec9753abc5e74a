"""Live scrapes of the three programs while they work: promtool finds nothing, and every expression of
the boards and rules is answered by a real Prometheus. Skipped, loudly, without prometheus."""
import os
import shutil
import subprocess
import sys
import threading
import unittest
import urllib.request

from cluster import SOURCE, Cluster, job_file, wait_for


@unittest.skipUnless(shutil.which("promtool") and shutil.which("prometheus"),
                     "prometheus and promtool are not installed")
class Metrics(unittest.TestCase):
    def test_live_scrapes_are_clean_and_every_expression_is_answered(self):
        with Cluster() as cluster:
            cluster.start_coordinator()
            worker = cluster.start_worker("w1", devices="cpu:2")
            worker_metrics = "127.0.0.1:" + worker.address(r"metrics on (?:port )?(?:[^ \"]*:)?(\d+)")
            config = cluster.path("inference.yaml")
            with open(config, "w", encoding="ascii") as file:
                file.write(f"slots: 4\nmax_context: 256\ndata_dir: {cluster.path('inference')}\n")
            inference = cluster.start_inference(extra=["--config", config])
            inference_metrics = inference.address(r"metrics on (?:http://)?(127\.0\.0\.1:\d+)")
            # A first job gives a checkpoint to serve, a second one trains while we look.
            cluster.cli("job", "submit", "-f", job_file(cluster, "first", training__max_steps=4))
            cluster.wait_job("first", "SUCCEEDED")
            cluster.cli("model", "deploy", "first", "--job", "first")
            cluster.cli("job", "submit", "-f", job_file(
                cluster, "second", training__max_steps=100000, training__epochs=100000))
            wait_for(lambda: cluster.step("second") > 12, "the second job to train")
            wait_for(lambda: "SERVING" in cluster.cli("model", "get", "first").stdout, "serving")

            stop = threading.Event()

            def talk():
                while not stop.is_set():
                    cluster.cli("generate", "--model", "first", "-p", "moon", "--max-tokens", "16",
                                check=False)
            talker = threading.Thread(target=talk)
            talker.start()
            try:
                scrapes = {"coordinator": cluster.metrics, "worker": worker_metrics,
                           "inference": inference_metrics}
                for name, address in scrapes.items():
                    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read()
                    checked = subprocess.run(["promtool", "check", "metrics"], input=text,
                                             capture_output=True, check=False)
                    self.assertEqual((checked.returncode, checked.stdout + checked.stderr),
                                     (0, b""), name)
                done = subprocess.run(
                    [sys.executable, os.path.join(SOURCE, "tests/deploy/metrics_test.py"),
                     "--coordinator", cluster.metrics, "--worker", worker_metrics,
                     "--inference", inference_metrics],
                    capture_output=True, text=True, check=False, timeout=150)
                print(done.stdout[-1500:])
                self.assertEqual(done.returncode, 0, done.stdout[-3000:] + done.stderr[-1000:])
            finally:
                stop.set()
                talker.join()


if __name__ == "__main__":
    unittest.main(verbosity=2)
