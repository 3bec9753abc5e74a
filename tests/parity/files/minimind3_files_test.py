"""MiniMind-3's files, dense and mixture: the same weights as .pth, as its own folder and as
transformers' Qwen3 or Qwen3Moe folder in both layouts give Python's logits, and go back."""
import collections
import json
import os
import subprocess
import unittest

from files_case import SEED, FilesCase  # first: it keeps transformers offline

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

import minimind

LOGITS = 1e-4
LENGTH = 80
DRIVER = os.environ["MINDFORGE_FOLDER_LOGITS"]
# Its config.json as its own code saves it: no field says that q and k are normalised.
OWN = {"model_type": "minimind", "architectures": ["MiniMindForCausalLM"],
       "auto_map": {"AutoConfig": "model_minimind.MiniMindConfig",
                    "AutoModelForCausalLM": "model_minimind.MiniMindForCausalLM"},
       "bos_token_id": 1, "eos_token_id": 2, "dropout": 0.0, "dtype": "float16",
       "flash_attn": True, "hidden_act": "silu", "inference_rope_scaling": False,
       "rope_scaling": None, "router_aux_loss_coef": 5e-4, "norm_topk_prob": True,
       "transformers_version": "4.57.6"}
SHAPE = minimind.BASE | {"qk_norm": True, "rms_norm_eps": 1e-6, "num_attention_heads": 8,
                         "num_key_value_heads": 4, "head_dim": 16, "intermediate_size": 256,
                         "max_position_embeddings": 32768}
KINDS = {"dense": {"use_moe": False, "num_experts": 4, "num_experts_per_tok": 1,
                   "moe_intermediate_size": 256},
         "top1": {"use_moe": True, "num_experts": 4, "num_experts_per_tok": 1,
                  "moe_intermediate_size": 96},
         "top2": {"use_moe": True, "num_experts": 5, "num_experts_per_tok": 2,
                  "moe_intermediate_size": 128}}


def stacked(weights, config):
    """transformers 5's layout: one tensor for all experts' gate and up, one for down."""
    fused = {k: v for k, v in weights.items() if ".experts." not in k}
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}.mlp.experts."
        of = [[weights[f"{p}{e}.{part}_proj.weight"] for part in ("gate", "up", "down")]
              for e in range(config["num_experts"])]
        fused[p + "gate_up_proj"] = torch.stack([torch.cat([g, u]) for g, u, _ in of])
        fused[p + "down_proj"] = torch.stack([d for _, _, d in of])
    return fused


class Minimind3FilesTest(FilesCase):
    def weights_of(self, config):
        generator = torch.Generator().manual_seed(SEED)
        weights = {}
        for name, shape in minimind.shapes_of(config).items():
            noise = torch.randn(shape, generator=generator)
            scale = 0.3 if name == "model.embed_tokens.weight" else shape[-1] ** -0.5
            value = 1 + 0.1 * noise if len(shape) == 1 else noise * scale
            weights[name] = value.half().float()  # its files are float16
        return weights

    def each(self):
        for kind, fields in KINDS.items():
            config = SHAPE | fields | {"norm_topk_prob": True}
            weights = self.weights_of(config)
            ids = self.ids(LENGTH)
            yield kind, config, weights, ids, minimind.forward(config, weights, ids)

    def write_own(self, folder, config, weights):
        os.makedirs(folder)
        kept = {k: v for k, v in config.items() if k != "qk_norm"}
        with open(os.path.join(folder, "config.json"), "w") as file:
            json.dump(OWN | kept, file)
        self.save_pth(os.path.join(folder, "pytorch_model.bin"), weights)

    def save_pth(self, path, weights):
        state = collections.OrderedDict((k, v.half()) for k, v in weights.items())
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        torch.save(state, path)

    def hf_model(self, config, weights):
        """transformers' model of these weights."""
        common = {k: config[k] for k in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings",
            "rms_norm_eps", "rope_theta", "tie_word_embeddings")}
        if config["use_moe"]:
            kind, shape = transformers.Qwen3MoeForCausalLM, transformers.Qwen3MoeConfig(
                **common, num_experts=config["num_experts"],
                num_experts_per_tok=config["num_experts_per_tok"],
                moe_intermediate_size=config["moe_intermediate_size"], norm_topk_prob=True)
            state = stacked(weights, config)
        else:
            kind = transformers.Qwen3ForCausalLM
            shape, state = transformers.Qwen3Config(**common), dict(weights)
        shape._attn_implementation = "eager"
        model = kind(shape)
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model.load_state_dict(state)
        return model.float().eval()

    def logits(self, folder, ids):
        out = self.at("logits.bin")
        done = subprocess.run([DRIVER, folder, ",".join(map(str, ids)), out], capture_output=True,
                              text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return torch.from_numpy(np.fromfile(out, dtype=np.float32).reshape(len(ids), -1).copy())

    def near(self, what, got, expected):
        difference = (got - expected).abs().max().item()
        print(f"{what} {difference:.1e} ", end="", flush=True)
        self.assertLess(difference, LOGITS, what)

    def test_every_form_gives_pythons_logits(self):
        for kind, config, weights, ids, expected in self.each():
            model = self.hf_model(config, weights)
            with torch.no_grad():
                self.near(f"{kind} transformers", model(torch.tensor([ids])).logits[0], expected)
            suffix = "_moe" if config["use_moe"] else ""
            pth = self.at(f"{kind}_64{suffix}.pth")
            self.save_pth(pth, weights)
            flags = [] if config["num_experts_per_tok"] == 1 else ["--num-experts-per-tok", "2"]
            done = self.cli("import", "--from", pth, "--out", self.at(kind + "-pth"), *flags)
            self.assertEqual("MiniMind-3's mixture" in done.stderr, config["use_moe"])
            self.near(f"{kind} pth", self.logits(self.at(kind + "-pth"), ids), expected)
            self.write_own(self.at(kind + "-own"), config, weights)
            self.near(f"{kind} own", self.logits(self.at(kind + "-own"), ids), expected)
            model.save_pretrained(self.at(kind + "-hf"))
            self.near(f"{kind} hf", self.logits(self.at(kind + "-hf"), ids), expected)
            if config["use_moe"]:
                self.check_layouts(kind, weights, config, ids, expected)

    def check_layouts(self, kind, weights, config, ids, expected):
        for layout, state in {"single": weights, "stacked": stacked(weights, config)}.items():
            folder = self.at(f"{kind}-{layout}")
            os.makedirs(folder)
            with open(self.at(kind + "-hf", "config.json")) as file:
                text = file.read()
            with open(os.path.join(folder, "config.json"), "w") as file:
                file.write(text)
            save_file(state, os.path.join(folder, "model.safetensors"))
            self.near(f"{kind} {layout}", self.logits(folder, ids), expected)

    def test_goes_back_into_every_form(self):
        for kind, config, weights, ids, expected in self.each():
            self.write_own(self.at(kind), config, weights)
            self.tokenizer_into(kind)
            export = ("export", "--path", self.at(kind), "--format")
            self.cli(*export, "hf", "--out", self.at(kind + "-hf"))
            model = transformers.AutoModelForCausalLM.from_pretrained(
                self.at(kind + "-hf"), dtype=torch.float32, attn_implementation="eager")
            self.assertEqual(type(model).__name__,
                             "Qwen3MoeForCausalLM" if config["use_moe"] else "Qwen3ForCausalLM")
            with torch.no_grad():
                self.near(f"{kind} to hf", model(torch.tensor([ids])).logits[0], expected)
            path = self.cli(*export, "pth", "--out", self.at(kind + "-pth")).stdout.strip()
            self.assertEqual(os.path.basename(path),
                             "pretrain_64_moe.pth" if config["use_moe"] else "pretrain_64.pth")
            self.same(weights, torch.load(path, weights_only=True))
            self.cli(*export, "minimind", "--out", self.at(kind + "-own"))
            with open(self.at(kind + "-own", "config.json")) as file:
                written = json.load(file)
            self.assertEqual(written["model_type"], "minimind")
            self.assertNotIn("qk_norm", written)
            if config["use_moe"]:
                for field in ("num_experts", "num_experts_per_tok", "moe_intermediate_size"):
                    self.assertEqual(written[field], config[field])
            self.same(weights, load_file(self.at(kind + "-own", "model.safetensors")))
            self.near(f"{kind} to own", self.logits(self.at(kind + "-own"), ids), expected)

    def same(self, weights, read):
        self.assertEqual(set(read) - {"lm_head.weight"}, set(weights))
        for key, value in weights.items():
            self.assertTrue(torch.equal(read[key].float(), value), key)

    def test_gguf_holds_stacks_of_experts_and_comes_back(self):
        for kind in ("top1", "top2"):
            config = SHAPE | KINDS[kind] | {"norm_topk_prob": True}
            weights = self.weights_of(config)
            self.write_own(self.at(kind), config, weights)
            self.tokenizer_into(kind)
            path = self.cli("export", "--path", self.at(kind), "--format", "gguf", "--out",
                            self.at("out")).stdout.strip()
            reader = gguf.GGUFReader(path)
            read = {name: field.contents() for name, field in reader.fields.items()}
            self.assertEqual(read["general.architecture"], "qwen3moe")
            for key, field in {"expert_count": "num_experts",
                               "expert_used_count": "num_experts_per_tok",
                               "expert_feed_forward_length": "moe_intermediate_size"}.items():
                self.assertEqual(read["qwen3moe." + key], config[field])
            self.check_stacks(config, weights, reader)
            self.cli("import", "--from", path, "--out", self.at(kind + "-in"))
            self.same(weights, load_file(self.at(kind + "-in", "model.safetensors")))

    def check_stacks(self, config, weights, reader):
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3MOE, config["num_hidden_layers"])
        stored = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
        for key, value in weights.items():
            if ".experts." not in key:
                theirs = stored.pop(names.get_name(key, try_suffixes=(".weight",)))
                self.assertTrue(torch.equal(theirs.reshape(value.shape), value), key)
        self.assertEqual(len(stored), 3 * config["num_hidden_layers"])
        for layer in range(config["num_hidden_layers"]):
            for part in ("gate", "up", "down"):
                stack = torch.stack([
                    weights[f"model.layers.{layer}.mlp.experts.{e}.{part}_proj.weight"]
                    for e in range(config["num_experts"])])
                self.assertTrue(torch.equal(stored[f"blk.{layer}.ffn_{part}_exps.weight"], stack))

    def tokenizer_into(self, folder):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            with open(os.path.join(minimind.DATA, "tokenizer", name)) as source:
                text = source.read()
            with open(self.at(folder, name), "w") as file:
                file.write(text)

    def test_what_would_be_wrong_is_refused(self):
        config = SHAPE | KINDS["dense"]
        weights = self.weights_of(config)
        self.hf_model(config, weights).save_pretrained(self.at("qwen3"))
        with open(self.at("qwen3", "config.json")) as file:
            read = json.load(file)
        for field, value in {"layer_types": ["sliding_attention"] * 2, "partial_rotary_factor": 0.5,
                             "final_logit_softcapping": 30,
                             "quantization_config": {"quant_method": "fp8"}}.items():
            with open(self.at("qwen3", "config.json"), "w") as file:
                json.dump(read | {field: value}, file)
            self.refused(field, "import", "--from", self.at("qwen3"), "--out", self.at("x"))


if __name__ == "__main__":
    unittest.main()
