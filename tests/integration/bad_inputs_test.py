"""Bad input of every kind gets the right status, names the field, says what to do, and loses nothing."""
import json
import os
import shutil
import struct
import subprocess
import unittest

import grpc

from cluster import BIN, Cluster, job_file, wait_for
from reflected import Reflected

# (change to a good job file, what the error must name). All are refused at submit: exit status 2.
JOB_FILES = [
    ({"nmae": "x"}, "nmae"),
    ({"training__learnig_rate": 1e-3}, "learning_rate"),  # the nearest name is offered
    ({"training__learning_rate": "fast"}, "training.learning_rate"),
    ({"name": ""}, "name"),
    ({"name": "Upper_Case"}, "name"),
    ({"name": "x" * 64}, "name"),
    ({"data__path": ""}, "data.path"),
    ({"data__tokenizer": ""}, "data.tokenizer"),
    ({"data__max_seq_len": 1}, "data.max_seq_len"),
    ({"data__max_seq_len": 4096}, "data.max_seq_len"),  # beyond max_position_embeddings
    ({"model__hidden_size": 0}, "model.hidden_size"),
    ({"model__num_attention_heads": 5}, "model.num_attention_heads"),
    ({"model__num_key_value_heads": 3}, "model.num_key_value_heads"),
    ({"model__head_dim": 7}, "model.head_dim"),
    ({"model__num_hidden_layers": -1}, "model.num_hidden_layers"),
    ({"model__dropout": 1.5}, "model.dropout"),
    ({"model__use_moe": True, "model__num_experts_per_tok": 5}, "model.num_experts_per_tok"),
    ({"training__epochs": 0}, "training.epochs"),
    ({"training__microbatch_size": 0}, "training.microbatch_size"),
    ({"training__accumulation_steps": 0}, "training.accumulation_steps"),
    ({"training__learning_rate": -1}, "training.learning_rate"),
    ({"training__learning_rate": float("nan")}, "training.learning_rate"),
    ({"training__grad_clip": -1}, "training.grad_clip"),
    ({"training__weight_decay": -0.1}, "training.weight_decay"),
    ({"training__dtype": "int8"}, "training.dtype"),
    ({"training__max_steps": -5}, "training.max_steps"),
    ({"workers__min": 3, "workers__max": 2}, "workers"),
    ({"workers__max": 64}, "workers.max"),  # more than accumulation_steps
    ({"workers__device": "tpu"}, "workers.device"),
    ({"checkpoint__dir": ""}, "checkpoint.dir"),
    ({"checkpoint__keep_last": 0}, "checkpoint.keep_last"),
    ({"checkpoint__every_steps": -1}, "checkpoint.every_steps"),
    ({"log_every_steps": 0}, "log_every_steps"),
    ({"max_failures": -1}, "max_failures"),
]

# (name, contents of the data file, what the job's reason must say). FAILED, exit status 6.
DATASETS = [
    ("no-file", None, "data.path"),
    ("empty-file", "", "data.path"),
    ("broken-line", '{"text": "good"}\n{"text": "bro\n', "line 2"),
    ("no-text-field", '{"txet": "a"}\n', "line 1"),
    ("text-is-a-number", '{"text": 7}\n', "line 1"),
    ("not-an-object", '[1, 2]\n', "line 1"),
]

# (change to a good request, the field that the violation must name). INVALID_ARGUMENT.
REQUESTS = [
    ({"sampling": {"temperature": -1.0}}, "temperature"),
    ({"sampling": {"temperature": float("nan")}}, "temperature"),
    ({"sampling": {"top_p": 0.0}}, "top_p"),
    ({"sampling": {"top_p": 1.5}}, "top_p"),
    ({"sampling": {"top_k": -1}}, "top_k"),
    ({"sampling": {"min_p": 2.0}}, "min_p"),
    ({"sampling": {"n": 0}}, "sampling.n"),
    ({"sampling": {"n": 1000}}, "sampling.n"),
    ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ({"stopping": {"max_new_tokens": -1}}, "max_new_tokens"),
    ({"stopping": {"min_new_tokens": 50, "max_new_tokens": 10}}, "min_new_tokens"),
    ({"stopping": {"stop_strings": ["x"] * 100}}, "stop_strings"),
    ({"stopping": {"stop_token_ids": [-3]}}, "stop_token_ids"),
    ({"output": {"top_logprobs": 1000, "logprobs": True}}, "top_logprobs"),
    ({"text": "", "add_bos": False}, "prompt"),
    ({"token_ids": {"ids": [1, 999999]}}, "token_ids"),
    ({"text": "word " * 3000}, "prompt"),
    ({"chat": {"messages": [{"role": "wizard", "content": "hi"}]}}, "role"),
    ({"chat": {"messages": []}}, "messages"),
    ({"resume_token_ids": [999999]}, "resume_token_ids"),
]


def edit_safetensors(path, edit):
    """Rewrites the JSON header of a safetensors file with `edit(header)`."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header, body = json.loads(file.read(size)), file.read()
    edit(header)
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)


def overwrite(path, contents):
    with open(path, "wb") as file:
        file.write(contents)


def truncate(path, share=0.5):
    os.truncate(path, int(os.path.getsize(path) * share))


# (name, damage to a good model folder, what the one line must name). Exit status 1 with a remedy.
FOLDERS = [
    ("missing", shutil.rmtree, "config.json"),
    ("no-weights", lambda d: os.remove(f"{d}/model.safetensors"), "model.safetensors"),
    ("truncated-weights", lambda d: truncate(f"{d}/model.safetensors"), "model.safetensors"),
    ("no-tokenizer", lambda d: os.remove(f"{d}/tokenizer.json"), "tokenizer.json"),
    ("truncated-tokenizer", lambda d: truncate(f"{d}/tokenizer.json"), "tokenizer.json"),
    ("config-is-text", lambda d: overwrite(f"{d}/config.json", b"hello"), "config.json"),
    ("config-of-another-shape", lambda d: edit_config(d, hidden_size=128), "model.embed_tokens"),
    ("config-cannot-be", lambda d: edit_config(d, num_attention_heads=5), "num_attention_heads"),
    ("tensor-missing", lambda d: edit_safetensors(
        f"{d}/model.safetensors", lambda h: h.update(other=h.pop("model.norm.weight"))),
     "model.norm.weight"),
    ("header-too-long", lambda d: overwrite(f"{d}/model.safetensors", b"\xff" * 64),
     "model.safetensors"),
]


def edit_config(folder, **changes):
    path = f"{folder}/config.json"
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config.update(changes)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)


class BadInputs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = cluster = Cluster()
        cluster.start_coordinator()
        cluster.start_worker("w1", devices="cpu:2")
        cluster.cli("job", "submit", "-f", job_file(
            cluster, "good", training__max_steps=12, checkpoint__every_steps=4))
        cluster.wait_job("good", "SUCCEEDED")

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(None, None, None)

    def tearDown(self):
        """Nothing crashed, and nothing that was acknowledged is gone."""
        self.assertIsNone(self.cluster.coordinator.process.poll())
        self.assertEqual(self.cluster.job("good")["state"], "JOB_STATE_SUCCEEDED")

    def test_job_files(self):
        for number, (change, expected) in enumerate(JOB_FILES):
            with self.subTest(change=str(change)[:80]):
                path = job_file(self.cluster, f"bad-{number}", change)
                done = self.cluster.cli("job", "submit", "-f", path, check=False)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(expected, done.stderr)
        listed = json.dumps(self.cluster.json("job", "list"))
        self.assertNotIn("bad-", listed, "a refused job must not be stored")

    def test_all_problems_are_listed_at_once(self):
        done = self.cluster.cli("job", "submit", "-f", job_file(
            self.cluster, "many", training__microbatch_size=0, training__dtype="int8",
            workers__device="tpu", checkpoint__dir=""), check=False)
        self.assertEqual(done.returncode, 2)
        for field in ("training.microbatch_size", "training.dtype", "workers.device",
                      "checkpoint.dir"):
            self.assertIn(field, done.stderr)

    def test_names_and_request_ids(self):
        good = job_file(self.cluster, "twice", training__max_steps=3)
        self.cluster.cli("job", "submit", "-f", good, "--request-id", "same")
        other = job_file(self.cluster, "other", training__max_steps=4)
        done = self.cluster.cli("job", "submit", "-f", other, "--request-id", "same", check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("use a new request_id", done.stderr)
        for command in (("get",), ("why",), ("logs",), ("cancel",), ("watch",), ("delete",)):
            done = self.cluster.cli("job", *command, "nobody", check=False)
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertIn("nobody", done.stderr)
        self.cluster.wait_job("twice", "SUCCEEDED")

    def test_datasets(self):
        for name, contents, expected in DATASETS:
            with self.subTest(name):
                path = self.cluster.path(f"{name}.jsonl")
                if contents is not None:
                    with open(path, "w", encoding="utf-8") as file:
                        file.write(contents)
                self.expect_failure(name, expected, data__path=path)

    def test_tokenizers(self):
        source = os.path.join(os.environ["MINDFORGE_TEST_DATA"], "tokenizer", "tokenizer.json")
        for name, damage in (
                ("tokenizer-missing", os.remove), ("tokenizer-truncated", truncate),
                ("tokenizer-other", lambda p: overwrite(p, b'{"model": {"type": "Unigram"}}'))):
            with self.subTest(name):
                folder = self.cluster.path(name)
                os.makedirs(folder)
                copy = shutil.copy(source, folder)
                os.chmod(copy, 0o644)
                damage(copy)
                self.expect_failure(name, "data.tokenizer", data__tokenizer=folder)

    def test_init_from_another_shape(self):
        self.expect_failure("init-missing", "training.init_from",
                            training__init_from=self.cluster.path("no-such-folder"))
        newest = self.cluster.json("checkpoint", "list", "good")["checkpoints"][0]["path"]
        self.expect_failure("init-other-shape", "training.init_from",
                            training__init_from=newest, model__hidden_size=128)

    def expect_failure(self, name, expected, **changes):
        done = self.cluster.cli("job", "submit", "--wait", "-f", job_file(
            self.cluster, name, **changes), check=False)
        self.assertEqual(done.returncode, 6, done.stderr)
        job = self.cluster.job(name)
        self.assertEqual(job["state"], "JOB_STATE_FAILED")
        self.assertIn(expected, job["reason"])
        self.assertEqual(int(job["generation"]), 1, "an error of the user's is not retried")

    def test_a_corrupt_checkpoint_is_never_loaded(self):
        self.cluster.cli("job", "submit", "-f", job_file(
            self.cluster, "resumed", training__max_steps=400, training__epochs=1000,
            checkpoint__every_steps=5))
        wait_for(lambda: self.cluster.step("resumed") >= 12, "step 12")
        self.cluster.cli("job", "pause", "resumed")
        self.cluster.wait_job("resumed", "PAUSED")
        newest, before = self.cluster.json("checkpoint", "list", "resumed")["checkpoints"][:2]
        with open(os.path.join(newest["path"], "model.safetensors"), "r+b") as file:
            file.seek(-5, os.SEEK_END)
            file.write(b"wrong")
        self.cluster.cli("job", "resume", "resumed")
        wait_for(lambda: self.cluster.step("resumed") > int(newest["step"]), "going on")
        logs = self.cluster.cli("job", "logs", "resumed").stdout
        self.assertIn(os.path.basename(newest["path"]), logs)
        self.assertRegex(logs, rf"step {before['step']}\b|steps {int(before['step']) + 1} to")
        self.assertFalse(os.path.exists(newest["path"]), "it is set aside")
        self.cluster.cli("job", "cancel", "resumed")
        self.cluster.wait_job("resumed", "CANCELLED")

    def test_model_folders(self):
        good = self.cluster.json("checkpoint", "list", "good")["checkpoints"][0]["path"]
        for name, damage, expected in FOLDERS:
            with self.subTest(name):
                folder = self.cluster.path(f"folder-{name}")
                shutil.copytree(good, folder)
                damage(folder)
                done = subprocess.run(
                    [os.path.join(BIN, "mindforge-inference"), "--model", folder, "--listen",
                     "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--data-dir",
                     self.cluster.path("folder-data")],
                    capture_output=True, text=True, timeout=60, check=False)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(expected, done.stderr)

    def test_generation_requests(self):
        good = self.cluster.json("checkpoint", "list", "good")["checkpoints"][0]["path"]
        server = self.cluster.start("mindforge-inference", [
            "--model", good, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0",
            "--data-dir", self.cluster.path("requests-data")], "requests.log")
        address = server.address(r"listening on (127\.0\.0\.1:\d+)")
        with Reflected(address) as client:
            def generate(**change):
                fields = {"text": "moon", "stopping": {"max_new_tokens": 2}, **change}
                if "token_ids" in change or "chat" in change:
                    fields.pop("text")
                return list(client.call("InferenceService", "Generate", **fields))

            def ready():
                try:
                    return generate()
                except grpc.RpcError as error:
                    self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
                    return None
            wait_for(ready, "the model")
            for change, expected in REQUESTS:
                with self.subTest(change=str(change)[:80]):
                    with self.assertRaises(grpc.RpcError) as caught:
                        generate(**change)
                    self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT,
                                     caught.exception.details())
                    violations = dict(caught.exception.trailing_metadata()).get(
                        "grpc-status-details-bin", b"")
                    self.assertIn(expected, caught.exception.details() + str(violations))
            self.assertTrue(generate(), "it still answers")


if __name__ == "__main__":
    unittest.main(verbosity=2)
