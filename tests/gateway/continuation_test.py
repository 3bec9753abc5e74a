"""Two inference workers serve one model; kill -9 of one in mid-stream changes no caller's answer."""
import os
import re
import sys
import threading
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from cluster import Cluster, job_file, wait_for  # noqa: E402
from reflected import Reflected  # noqa: E402

STREAMS = 40
TOKENS = 400


class Continuation(unittest.TestCase):
    def test_kill_9_of_an_inference_worker(self):
        with Cluster() as cluster:
            cluster.start_coordinator()
            cluster.start_worker("w1", devices="cpu:2")
            servers = []
            for name in ("s1", "s2"):
                config = cluster.path(f"{name}.yaml")
                with open(config, "w", encoding="ascii") as file:
                    file.write(f"name: {name}\nslots: 64\nmax_context: 1024\ndtype: float32\n"
                               f"threads: 1\ndata_dir: {cluster.path('inference')}\n")
                servers.append(cluster.start_inference(name, extra=["--config", config]))
            cluster.cli("job", "submit", "-f", job_file(
                cluster, "j", training__max_steps=5, model__max_position_embeddings=1024))
            cluster.wait_job("j", "SUCCEEDED")
            cluster.cli("model", "deploy", "m", "--job", "j", "--replicas", "2")

            def both_ready():
                model = cluster.json("model", "get", "m")
                model = model.get("deployment", model)
                return sum(r.get("ready", False) for r in model.get("replicas", [])) == 2
            wait_for(both_ready, "two replicas")
            with Reflected(cluster.server) as client:
                self.check(cluster, client, servers[0])

    def check(self, cluster, client, victim):
        begun = threading.Semaphore(0)

        def generate(index):
            ids, text = [], ""
            for event in client.call(
                    "InferenceService", "Generate", timeout=120, model="m", text=f"moon {index}",
                    add_bos=True, sampling={"temperature": 0.8, "seed": index},
                    stopping={"max_new_tokens": TOKENS, "ignore_eos": True}):
                if event.HasField("delta"):
                    if len(ids) < 3 <= len(ids) + len(event.delta.token_ids):
                        begun.release()
                    ids += event.delta.token_ids
                    text += event.delta.text
            return ids, text

        together = [None] * STREAMS

        def run(index):
            together[index] = generate(index)
        threads = [threading.Thread(target=run, args=(i,)) for i in range(STREAMS)]
        for thread in threads:
            thread.start()
        for _ in threads:
            self.assertTrue(begun.acquire(timeout=60), "a stream did not begin")
        victim.kill()
        for thread in threads:
            thread.join()
        for index in range(0, STREAMS, 4):
            ids, text = generate(index)
            self.assertEqual(len(ids), TOKENS)
            self.assertEqual(together[index], (ids, text))
        self.assertNotIn(None, together)
        metrics = urllib.request.urlopen(f"http://{cluster.metrics}/metrics",
                                         timeout=10).read().decode()
        continued = re.search(
            r'^mindforge_gateway_interrupted_streams_total\{outcome="continued"\} (\d+)$',
            metrics, re.M)
        print(f"{continued.group(1)} of {STREAMS} streams went on elsewhere")
        self.assertGreater(int(continued.group(1)), 0, "nothing was interrupted: it tests nothing")


if __name__ == "__main__":
    unittest.main(verbosity=2)
