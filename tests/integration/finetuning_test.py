"""A model is pretrained by a recipe, fine-tuned on conversations from there, deployed, and answers in
the chat template what it was taught; and what a recipe came to is seen from outside."""
import json
import os
import unittest

from cluster import DATA, Cluster, job_file, wait_for

ANSWERS = {
    "What is the moon?": "A lamp for travellers.",
    "Where does the river go?": "East, to the sea.",
    "Who wrote this letter?": "My old friend in the north.",
    "明月是什么？": "床前的光。",
    "你是谁？": "我是一个很小的模型。",
}
TOKENIZER = os.path.join(DATA, "tokenizer3")
# A model that learns five answers by heart in seconds.
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512}


def write_conversations(path):
    with open(path, "w", encoding="utf-8") as file:
        for question, answer in ANSWERS.items():
            chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"conversations": chat}, ensure_ascii=False) + "\n")


def recipe_file(cluster, name, data, training, **more):
    """NAME.yaml with a recipe, which decides all that is not here."""
    job_file(cluster, "unused")  # writes the corpus
    spec = {
        "name": name, "recipe": "minimind3", "model": TINY,
        "data": {"tokenizer": TOKENIZER, "max_seq_len": 64, **data},
        "training": {"dtype": "float32", **training},
        "workers": {"max": 1, "device": "cpu"},
        "checkpoint": {"dir": cluster.path("checkpoints")}, **more,
    }
    path = cluster.path(f"{name}.yaml")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file)
    return path


class FineTuning(unittest.TestCase):
    def test_a_fine_tuned_model_answers_in_the_template(self):
        with Cluster() as cluster:
            cluster.start_coordinator()
            cluster.start_worker("w1", devices="cpu:1")
            config = cluster.path("inference.yaml")
            with open(config, "w", encoding="ascii") as file:
                file.write(f"slots: 2\nmax_context: 128\ndata_dir: {cluster.path('inference')}\n"
                           "dtype: float32\n")
            cluster.start_inference(extra=["--config", config])

            cluster.cli("job", "submit", "--wait", "-f", recipe_file(
                cluster, "base", {"path": cluster.path("data.jsonl")},
                {"learning_rate": 2e-3, "max_steps": 10, "accumulation_steps": 1}))
            spec = cluster.job("base")["spec"]
            self.assertEqual(spec["recipe"], "minimind3")
            self.assertTrue(spec["data"]["add_bos_eos"])
            self.assertEqual(spec["training"]["schedule"], "cosine_from_lr")
            self.assertEqual(spec["model"]["rms_norm_eps"], 1e-6)
            shown = cluster.cli("job", "get", "base").stdout
            self.assertRegex(shown, r"Recipe:? +minimind3")
            self.assertIn("intermediate_size: 256", shown)
            base = cluster.json("checkpoint", "list", "base")["checkpoints"][0]["path"]

            chats = cluster.path("chats.jsonl")
            write_conversations(chats)
            cluster.cli("job", "submit", "--wait", "-f", recipe_file(
                cluster, "tuned", {"path": chats, "format": "conversations"},
                {"init_from": base, "learning_rate": 5e-3, "epochs": 120, "microbatch_size": 5}))
            tuned = cluster.job("tuned")
            self.assertFalse(tuned["spec"]["data"]["add_bos_eos"])
            self.assertLess(tuned["progress"]["loss"], 0.05)

            cluster.cli("model", "deploy", "tuned", "--job", "tuned")
            wait_for(lambda: "SERVING" in json.dumps(cluster.json("model", "get", "tuned")),
                     "the deployment to serve")
            said = cluster.cli("chat", "--model", "tuned", "--temperature", "0",
                               "--max-tokens", "40", stdin="\n".join(ANSWERS) + "\n")
            answers = [line for line in said.stdout.splitlines() if line]
            self.assertEqual(answers, list(ANSWERS.values()), said.stderr)

    def test_a_recipe_that_is_not_known_is_refused_with_the_list(self):
        with Cluster() as cluster:
            cluster.start_coordinator()
            path = recipe_file(cluster, "unknown", {"path": "/data"}, {}, recipe="minimind4")
            done = cluster.cli("job", "submit", "-f", path, check=False)
            self.assertEqual(done.returncode, 2)
            self.assertIn("recipe", done.stderr)
            self.assertIn("minimind2 or minimind3", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
