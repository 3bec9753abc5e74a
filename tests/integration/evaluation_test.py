"""Perplexity of a served model against the loss that its own training saw, and conversations; the
data is a folder of files with some lines that cannot be read."""
import csv
import io
import json
import math
import os
import unittest

from cluster import Cluster, job_file, wait_for, write_corpus

TEXTS = 24
LENGTH = 48


class Evaluation(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster()
        cluster = cls.cluster
        cluster.start_coordinator()
        cluster.start_worker("w1")
        config = cluster.path("inference.yaml")
        with open(config, "w", encoding="ascii") as file:
            file.write(f"slots: 4\nmax_context: 256\ndata_dir: {cluster.path('inference')}\n"
                       "dtype: float32\n")
        cluster.start_inference(extra=["--config", config])

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(None, None, None)

    def write_data(self):
        """All texts in one file, and the same in a folder of two with two bad lines between."""
        cluster = self.cluster
        texts = cluster.path("texts.jsonl")
        write_corpus(texts, TEXTS)
        with open(texts, encoding="utf-8") as file:
            lines = file.readlines()
        folder = cluster.path("folder")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "a.jsonl"), "w", encoding="utf-8") as file:
            file.write("".join(lines[:10]) + "{\"text\": \"unclosed\n")
        with open(os.path.join(folder, "b.jsonl"), "w", encoding="utf-8") as file:
            file.write("{}\n" + "".join(lines[10:]))
        return texts, folder

    def test_1_perplexity_is_that_of_training(self):
        cluster = self.cluster
        texts, folder = self.write_data()
        # One microbatch of all texts a step, and a learning rate that changes nothing that counts:
        # the last step's loss is the checkpoint's own on these texts.
        cluster.cli("job", "submit", "-f", job_file(
            cluster, "still", data__path=folder, data__malformed_lines="skip",
            data__packing=False, data__max_seq_len=LENGTH, training__microbatch_size=TEXTS,
            training__accumulation_steps=1, training__learning_rate=1e-12, training__max_steps=2,
            workers__max=1))
        job = cluster.wait_job("still", "SUCCEEDED")
        self.assertEqual(int(job.get("skipped_lines", 0)), 2, job)
        rows = list(csv.DictReader(io.StringIO(
            cluster.cli("job", "metrics", "still", "--csv").stdout)))
        loss = float(rows[-1]["loss"])
        cluster.cli("model", "deploy", "still", "--job", "still", "--wait")
        scored = cluster.json("model", "eval", "still", "--data", texts,
                              "--max-seq-len", str(LENGTH))
        print(f"loss {loss} in training, {scored['loss']} served")
        self.assertEqual(scored["texts"], TEXTS)
        self.assertGreater(scored["cut_texts"], 0)
        self.assertAlmostEqual(scored["loss"], loss, delta=1e-4)
        self.assertAlmostEqual(scored["perplexity"], math.exp(scored["loss"]), delta=1e-6)
        again = cluster.json("model", "eval", "still", "--data", texts, "--max-seq-len",
                             str(LENGTH), "--parallel", "1")
        self.assertAlmostEqual(again["loss"], scored["loss"], delta=1e-6)

    def test_2_a_bad_line_refuses_the_job_unless_told_otherwise(self):
        cluster = self.cluster
        _, folder = self.write_data()
        submitted = cluster.cli("job", "submit", "-f", job_file(
            cluster, "refused", data__path=folder), "--follow", check=False)
        self.assertNotEqual(submitted.returncode, 0)
        said = submitted.stdout + submitted.stderr
        self.assertIn("a.jsonl, line 11", said)
        self.assertIn("b.jsonl, line 1: no field `text`", said)

    def test_3_conversations(self):
        cluster = self.cluster
        first = cluster.cli("chat", "--model", "still", "--max-tokens", "6",
                            stdin="moon\nriver\nmoon\n")
        answers = first.stdout.split("\n\n")
        self.assertIn("tokens/s", first.stderr)
        self.assertEqual(answers[0], answers[2])  # the seed is the same for each prompt
        automatic = cluster.cli("chat", "--model", "still", "--auto", "--max-tokens", "3")
        self.assertEqual(automatic.stderr.count("tokens/s"), 8)
        self.assertIn("> 解释什么是机器学习\n", automatic.stdout)
        lines = cluster.cli("chat", "--model", "still", "--chat", "--history", "2", "--max-tokens",
                            "4", "-o", "json", stdin="moon\nriver\n").stdout.splitlines()
        prompts = [json.loads(line)["started"]["prompt_tokens"] for line in lines]
        self.assertEqual(len(prompts), 2)
        self.assertTrue(all(tokens > 0 for tokens in prompts), prompts)

    def loss_of(self, *how):
        """The loss of what `model deploy` is told to serve, which nothing else is meanwhile."""
        cluster = self.cluster
        texts, _ = self.write_data()
        cluster.cli("model", "deploy", "judged", *how, "--wait")
        scored = cluster.json("model", "eval", "judged", "--data", texts, "--max-seq-len",
                              str(LENGTH))
        cluster.cli("model", "delete", "judged")
        return scored["loss"]

    def test_4_adapters_beside_a_base_serve_as_the_merged_model(self):
        cluster = self.cluster
        cluster.cli("model", "delete", "still")
        base = cluster.path("base")
        cluster.cli("checkpoint", "export", "still", "2", "--format", "hf", "--out", base)
        cluster.cli("job", "submit", "-f", job_file(
            cluster, "tuned", lora={"rank": 4}, training__init_from=base, training__max_steps=20,
            training__learning_rate=1e-2))
        cluster.wait_job("tuned", "SUCCEEDED")
        out = cluster.path("tuned")
        adapters = cluster.cli("checkpoint", "export", "tuned", "20", "--format", "pth", "--dtype",
                               "float32", "--lora-only", "--out", out).stdout.strip()
        merged = cluster.path("merged")
        cluster.cli("checkpoint", "export", "tuned", "20", "--format", "hf", "--out", merged)
        of_base = self.loss_of("--path", base)
        of_merged = self.loss_of("--path", merged)
        of_both = self.loss_of("--path", base, "--lora", adapters)
        print(f"loss {of_base} of the base, {of_merged} merged, {of_both} with --lora")
        self.assertGreater(abs(of_base - of_merged), 1e-3)
        self.assertAlmostEqual(of_both, of_merged, delta=1e-6)


if __name__ == "__main__":
    unittest.main(verbosity=2)
