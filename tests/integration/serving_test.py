"""A job is trained, deployed and generated from, all by a client that has reflection only; then many
streams at once, and a deployment that follows the job."""
import concurrent.futures
import os
import re
import unittest
import urllib.request

import grpc

from cluster import Cluster, job_file, wait_for
from reflected import Reflected

STREAMS = 100


def metric(address, name):
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
    values = [float(v) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.M)]
    return sum(values) if values else None


class Serving(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster()
        cluster = cls.cluster
        cluster.start_coordinator()
        cluster.start_worker("w1", devices="cpu:2")
        config = cluster.path("inference.yaml")
        with open(config, "w", encoding="ascii") as file:
            file.write(f"slots: 32\nmax_context: 256\ndata_dir: {cluster.path('inference')}\n"
                       "dtype: float32\n")
        cls.inference = cluster.start_inference(extra=["--config", config])
        cls.metrics = cls.inference.address(r"metrics on (?:http://)?(127\.0\.0\.1:\d+)")

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(None, None, None)

    def test_1_an_outsider_with_reflection_alone(self):
        cluster = self.cluster
        job_file(cluster, "unused")  # writes the corpus
        with Reflected(cluster.server) as client:
            self.assertIn("mindforge.v1.JobService", client.services())
            self.assertIn("grpc.health.v1.Health", client.services())
            spec = {
                "name": "outside",
                "model": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                          "num_key_value_heads": 2, "max_position_embeddings": 512},
                "data": {"path": cluster.path("data.jsonl"), "packing": True, "max_seq_len": 64,
                         "tokenizer": os.path.join(os.environ["MINDFORGE_TEST_DATA"], "tokenizer")},
                "training": {"microbatch_size": 2, "accumulation_steps": 4, "max_steps": 20,
                             "dtype": "float32"},
                "workers": {"max": 2},
                "checkpoint": {"every_steps": 10, "dir": cluster.path("checkpoints")},
            }
            job = client.call("JobService", "SubmitJob", job=spec, request_id="outside-1").job
            states = []
            for update in client.call("JobService", "WatchJob", timeout=120, job=job.id):
                states.append(client.enum_name("JobState", update.job.state))
            self.assertEqual(states[-1], "JOB_STATE_SUCCEEDED", states)
            self.assertIn("JOB_STATE_RUNNING", states)
            client.call("DeploymentService", "DeployModel", request_id="outside-2",
                        deployment={"name": "outside", "job": {"job": "outside"}})

            def serving():
                state = client.call("DeploymentService", "GetDeployment",
                                    name="outside").deployment.state
                return client.enum_name("DeploymentState", state) == "DEPLOYMENT_STATE_SERVING"
            wait_for(serving, "the deployment to serve")
            events = list(client.call(
                "InferenceService", "Generate", timeout=60, model="outside", text="moon river",
                sampling={"temperature": 0.0}, stopping={"max_new_tokens": 12, "ignore_eos": True}))
            self.assertTrue(events[0].HasField("started"))
            self.assertTrue(events[0].started.weights_version.startswith("step-20."))
            self.assertTrue(events[-1].HasField("finished"))
            ids = [i for e in events if e.HasField("delta") for i in e.delta.token_ids]
            self.assertEqual(len(ids), 12)
            # The same greedy request in one piece gives the same tokens.
            unary = client.call(
                "InferenceService", "GenerateUnary", timeout=60,
                request={"model": "outside", "text": "moon river", "sampling": {"temperature": 0.0},
                         "stopping": {"max_new_tokens": 12, "ignore_eos": True}})
            self.assertEqual(list(unary.results[0].token_ids), ids)

    def test_2_many_streams_at_once_agree_with_each_alone(self):
        with Reflected(self.cluster.server) as client:
            def generate(index):
                events = list(client.call(
                    "InferenceService", "Generate", timeout=120, model="outside",
                    text=f"moon {index} river", add_bos=True,
                    sampling={"temperature": 0.8, "seed": index},
                    stopping={"max_new_tokens": 10 + index % 20, "ignore_eos": True},
                    output={"logprobs": True}))
                deltas = [e.delta for e in events if e.HasField("delta")]
                self.assertTrue(events[-1].HasField("finished"))
                return ([i for d in deltas for i in d.token_ids],
                        [p.logprob for d in deltas for p in d.logprobs])
            with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
                together = list(pool.map(generate, range(STREAMS)))
            worst = 0.0
            for index in range(0, STREAMS, 10):
                ids, logprobs = generate(index)
                self.assertEqual(ids, together[index][0])
                self.assertEqual(len(ids), len(logprobs))
                worst = max([worst] + [abs(a - b) for a, b in zip(logprobs, together[index][1])])
            print(f"largest logprob difference {worst:.2e}")
            self.assertLessEqual(worst, 1e-4)

    def test_3_cancelling_half_frees_their_slots(self):
        with Reflected(self.cluster.server) as client:
            calls = [client.call("InferenceService", "Generate", timeout=120, model="outside",
                                 text="night", sampling={"temperature": 0.9, "seed": i},
                                 stopping={"max_new_tokens": 200, "ignore_eos": True})
                     for i in range(STREAMS)]
            for call in calls[:STREAMS // 2]:
                call.cancel()
            finished = 0
            for call in calls[STREAMS // 2:]:
                events = list(call)
                finished += events[-1].HasField("finished")
            self.assertEqual(finished, STREAMS // 2)
            for call in calls[:STREAMS // 2]:
                self.assertEqual(call.code(), grpc.StatusCode.CANCELLED)
            wait_for(lambda: metric(self.metrics, "mindforge_requests_running") == 0, "idle")

    def test_4_the_deployment_follows_its_job(self):
        cluster = self.cluster
        cluster.cli("job", "submit", "-f", job_file(
            cluster, "follow", training__max_steps=30, training__microbatch_size=4,
            training__epochs=100))
        cluster.cli("model", "delete", "outside")
        cluster.cli("model", "deploy", "follow", "--job", "follow")
        cluster.wait_job("follow", "SUCCEEDED")

        def newest_served():
            model = cluster.json("model", "get", "follow")
            model = model.get("deployment", model)
            return (model["state"] == "DEPLOYMENT_STATE_SERVING" and
                    model["replicas"][0]["weights_version"].startswith("step-30."))
        wait_for(newest_served, "the newest checkpoint to be served")
        text = cluster.cli("generate", "--model", "follow", "-p", "moon", "--max-tokens", "8",
                           "--seed", "1").stdout
        self.assertTrue(text.strip())
        missing = cluster.cli("generate", "--model", "nothing", "-p", "moon", check=False)
        self.assertEqual(missing.returncode, 3, missing.stderr)
        self.assertIn("follow", missing.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
