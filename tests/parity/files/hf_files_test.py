"""Exported Hugging Face folders, loaded by transformers."""
import dataclasses
import json
import os
import re
import unittest

from files_case import POSITIONS, SEED, YARN, FilesCase  # first: it keeps transformers offline

import torch
import transformers
from safetensors.torch import load_file, save_file

import minimind


# Models of transformers whose blocks are those of llama or qwen with something else in them.
LLAMA_LIKE = """llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next gemma gemma2
    gemma3_text phi phi3 phimoe cohere cohere2 olmo olmo2 olmo3 olmoe granite granitemoe
    granitemoeshared granitemoehybrid stablelm starcoder2 deepseek_v2 deepseek_v3 glm glm4 glm4_moe
    smollm3 exaone4 ernie4_5 ernie4_5_moe minimax nemotron jamba hunyuan_v1_dense hunyuan_v1_moe
    gpt_oss seed_oss apertus arcee helium diffllama dots1 persimmon lfm2 llama4_text vaultgemma
    falcon_h1 bamba""".split()


class HfFilesTest(FilesCase):
    def transformers_logits(self, folder, ids):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager")
        with torch.no_grad():
            return model, model(torch.tensor([ids])).logits[0]

    def test_golden_logits_in_transformers(self):
        for name in ("dense", "yarn"):
            config, weights, tensors = minimind.golden(name)
            ids = tensors["input_ids"][0].tolist()
            own = minimind.forward(config, weights, ids)
            self.assertLess((own - tensors["logits"][0]).abs().max().item(), 2e-5)
            os.makedirs(self.at(name))
            save_file(weights, self.at(name, "model.safetensors"))
            with open(self.at(name, "config.json"), "w") as file:
                json.dump(config, file)
            self.cli("export", "--path", self.at(name), "--format", "hf", "--out",
                     self.at(name + "-hf"))
            model, logits = self.transformers_logits(self.at(name + "-hf"), ids)
            self.assertEqual(type(model).__name__, "LlamaForCausalLM")
            difference = (logits - tensors["logits"][0]).abs().max().item()
            print(f"{name} {difference:.1e} ", end="", flush=True)
            self.assertLess(difference, 1e-4)

    def test_random_models_in_transformers(self):
        cases = {"dense": {}, "untied": {"tie_word_embeddings": False},
                 "qk_norm": {"qk_norm": True, "head_dim": 24},
                 "yarn": {"rope_scaling": YARN},
                 "yarn_qk_norm": {"rope_scaling": YARN, "qk_norm": True}}
        ids = self.ids(POSITIONS)
        for name, fields in cases.items():
            config, weights = self.model(name, **fields)
            self.cli("export", "--path", self.at(name), "--format", "hf", "--out", self.at("hf"),
                     "--overwrite")
            model, logits = self.transformers_logits(self.at("hf"), ids)
            kind = "Qwen3ForCausalLM" if config.get("qk_norm") else "LlamaForCausalLM"
            self.assertEqual(type(model).__name__, kind)
            difference = (logits - minimind.forward(config, weights, ids)).abs().max().item()
            print(f"{name} {difference:.1e} ", end="", flush=True)
            self.assertLess(difference, 1e-4, name)

    def test_tokenizer_and_chat_template_travel(self):
        self.model()
        self.cli("export", "--path", self.at("model"), "--format", "hf", "--out", self.at("hf"))
        ours = transformers.AutoTokenizer.from_pretrained(self.at("hf"))
        theirs = self.tokenizer("model")
        for i in range(50):
            text = minimind.random_text(SEED + i)
            self.assertEqual(ours(text)["input_ids"], theirs(text)["input_ids"])
        messages = [{"role": "user", "content": "hi"}]
        self.assertIn("<|im_start|>user\nhi<|im_end|>", ours.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True))
        self.assertEqual((ours.bos_token_id, ours.eos_token_id, ours.pad_token_id), (1, 2, 0))
        generation = transformers.GenerationConfig.from_pretrained(self.at("hf"))
        self.assertEqual((generation.temperature, generation.eos_token_id), (0.85, 2))

    def test_a_tokenizer_without_configuration_gets_one(self):
        self.model()
        os.remove(self.at("model", "tokenizer_config.json"))
        self.cli("export", "--path", self.at("model"), "--format", "hf", "--out", self.at("hf"))
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.at("hf"))
        self.assertEqual((tokenizer.bos_token, tokenizer.eos_token), ("<|im_start|>", "<|im_end|>"))

    def test_dtypes(self):
        _, weights = self.model()
        for dtype in (torch.bfloat16, torch.float16):
            name = str(dtype).removeprefix("torch.")
            self.cli("export", "--path", self.at("model"), "--format", "hf", "--dtype", name,
                     "--out", self.at(name))
            for key, value in load_file(self.at(name, "model.safetensors")).items():
                self.assertTrue(torch.equal(value, weights[key].to(dtype)), key)

    def test_second_releases_moe_stays_minimind(self):
        self.model(use_moe=True, num_experts_per_tok=2, n_routed_experts=4, n_shared_experts=1)
        done = self.cli("export", "--path", self.at("model"), "--format", "hf", "--out",
                        self.at("hf"))
        self.assertIn("model_type minimind", done.stderr)
        with open(self.at("hf", "config.json")) as file:
            self.assertEqual(json.load(file)["model_type"], "minimind")
        self.refused("mixture of experts", "export", "--path", self.at("model"), "--format", "gguf",
                     "--out", self.at("x"))

    def test_every_field_of_a_llama_like_model_is_known(self):
        """None of them may be left out with a warning: each is refused, or known to mean nothing."""
        fields = set()
        for kind in LLAMA_LIKE:
            config = transformers.models.auto.configuration_auto.CONFIG_MAPPING[kind]
            fields |= {field.name for field in dataclasses.fields(config)}
        self.model(qk_norm=True)
        with open(self.at("model", "config.json")) as file:
            config = json.load(file) | {"model_type": "qwen3"}
        read = set(config) | {"bos_token_id", "eos_token_id", "pad_token_id", "rope_parameters",
                              "rope_scaling", "dropout", "layer_types", "flash_attention"}
        odd = {name: {"x": 1} for name in fields - read}
        self.assertGreater(len(odd), 100)

        def run(extra):
            with open(self.at("model", "config.json"), "w") as file:
                json.dump(config | extra, file)
            return self.run_cli("import", "--from", self.at("model"), "--out", self.at("in"))

        refused = re.findall(r'(\w+) is \{"x":1\}, which is not supported', run(odd).stderr)
        self.assertGreater(len(refused), 50)
        done = run({name: value for name, value in odd.items() if name not in refused})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("not known", done.stderr)

    def test_minimind_scaling_is_refused(self):
        self.model(inference_rope_scaling=True)
        for kind in ("hf", "gguf"):
            done = self.refused("MiniMind's own RoPE scaling", "export", "--path", self.at("model"),
                                "--format", kind, "--out", self.at("x"))
            self.assertIn("remove rope_scaling", done.stderr)
            self.assertFalse(os.path.exists(self.at("x")))

    def test_nothing_is_overwritten_unasked(self):
        self.model()
        export = ("export", "--path", self.at("model"), "--format")
        for kind in ("hf", "pth", "gguf"):
            self.cli(*export, kind, "--out", self.at(kind))
            self.refused("overwrite", *export, kind, "--out", self.at(kind))
            self.cli(*export, kind, "--out", self.at(kind), "--overwrite")
        with open(self.at("hf", "diary.txt"), "w") as file:
            file.write("mine")
        self.refused("diary.txt", *export, "hf", "--out", self.at("hf"), "--overwrite")
        self.assertEqual(sorted(os.listdir(self.dir)), ["gguf", "hf", "model", "pth"])


if __name__ == "__main__":
    unittest.main()
