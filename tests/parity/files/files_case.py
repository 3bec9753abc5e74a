"""What the tests of exported and imported files share: a scratch folder and the command line."""
import os
import random
import subprocess
import tempfile
import unittest
import warnings

warnings.filterwarnings("ignore")
os.environ["HF_HUB_OFFLINE"] = "1"

import transformers

import minimind

BIN = os.path.join(os.environ["MINDFORGE_BIN"], "mindforge")
SEED = int(os.environ.get("MINDFORGE_TEST_SEED") or random.SystemRandom().randrange(2**31))
YARN = {"rope_type": "yarn", "original_max_position_embeddings": 64, "factor": 4.0,
        "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.0}
POSITIONS = 200


class FilesCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="parity-files-")
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        print(f"seed {SEED} ", end="", flush=True)

    def at(self, *names):
        return os.path.join(self.dir, *names)

    def run_cli(self, *arguments):
        return subprocess.run([BIN, "checkpoint", *arguments], capture_output=True, text=True,
                              timeout=120)

    def cli(self, *arguments):
        done = self.run_cli(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def refused(self, says, *arguments):
        done = self.run_cli(*arguments)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(says, done.stderr)
        return done

    def model(self, name="model", **fields):
        return minimind.make_folder(self.at(name), SEED, **fields)

    def ids(self, count, vocab=6400):
        source = random.Random(SEED)
        return [source.randrange(3, vocab) for _ in range(count)]

    def tokenizer(self, folder):
        return transformers.PreTrainedTokenizerFast(
            tokenizer_file=self.at(folder, "tokenizer.json"))
