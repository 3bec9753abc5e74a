"""Exported .pth opened by torch; what torch writes, imported."""
import collections
import json
import os
import pickle
import subprocess
import unittest

from files_case import SEED, FilesCase  # first: it keeps transformers offline

import numpy as np
import torch
from safetensors.torch import load_file, save_file


class PthFilesTest(FilesCase):
    def test_pth_both_ways(self):
        for name, fields in {"dense": {"num_attention_heads": 8, "head_dim": 8},
                             "qk_norm": {"qk_norm": True, "rms_norm_eps": 1e-6},
                             "moe": {"num_attention_heads": 8, "head_dim": 8, "use_moe": True,
                                     "n_routed_experts": 4, "n_shared_experts": 1}}.items():
            _, weights = self.model(name, **fields)
            done = self.cli("export", "--path", self.at(name), "--format", "pth", "--out",
                            self.at(name + "-out"))
            path = done.stdout.strip()
            suffix = "_moe" if name == "moe" else ""
            self.assertEqual(os.path.basename(path), f"pretrain_64{suffix}.pth")
            loaded = torch.load(path, weights_only=True)
            self.assertEqual(set(loaded), set(weights) | {"lm_head.weight"})
            for key, value in weights.items():
                self.assertTrue(torch.equal(loaded[key], value.half()), key)
            self.assertTrue(torch.equal(loaded["lm_head.weight"],
                                        loaded["model.embed_tokens.weight"]))
            # And one that torch wrote.
            written = collections.OrderedDict((k, v.clone()) for k, v in loaded.items())
            torch.save(written, self.at("full_sft_64.pth"))
            done = self.cli("import", "--from", self.at("full_sft_64.pth"), "--out",
                            self.at(name + "-in"), "--tokenizer", self.at(name))
            self.assertIn("assumed: rope_theta", done.stderr)
            back = load_file(self.at(name + "-in", "model.safetensors"))
            self.assertEqual(set(back), set(weights))
            for key, value in back.items():
                self.assertTrue(torch.equal(value, loaded[key]), key)
            with open(self.at(name + "-in", "config.json")) as file:
                config = json.load(file)
            with open(self.at(name, "config.json")) as file:
                asked = json.load(file)
            for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim",
                          "num_key_value_heads", "intermediate_size", "vocab_size", "rms_norm_eps"):
                self.assertEqual(config[field], asked[field], field)
            self.assertEqual(config["mindforge_prompt_style"], "chat")
            self.assertIn("tokenizer.json", os.listdir(self.at(name + "-in")))

    def test_import_says_what_does_not_fit(self):
        _, weights = self.model()
        torch.save(weights, self.at("pretrain_64.pth"))
        self.cli("import", "--from", self.at("pretrain_64.pth"), "--out", self.at("in"),
                 "--num-attention-heads", "4", "--rope-theta", "1e4")
        with open(self.at("in", "config.json")) as file:
            config = json.load(file)
        self.assertEqual((config["head_dim"], config["rope_theta"]), (16, 1e4))
        self.refused("--num-attention-heads", "import", "--from", self.at("pretrain_64.pth"),
                     "--out", self.at("x"), "--num-attention-heads", "7")
        torch.save({"model.embed_tokens.weight": torch.ones(8, 4)}, self.at("part.pth"))
        self.refused("model.layers.0 is missing", "import", "--from", self.at("part.pth"), "--out",
                     self.at("x"))

    def test_hostile_pth_is_refused(self):
        witness = self.at("owned")

        class Call:
            def __init__(self, *what):
                self.what = what

            def __reduce__(self):
                return self.what

        command = f"touch {witness}"
        hostile = [Call(os.system, (command,)), Call(eval, (f"open({witness!r}, 'w')",)),
                   Call(exec, ("import os",)), Call(open, (witness, "w")),
                   Call(subprocess.Popen, (["touch", witness],)), Call(getattr, ("x", "upper")),
                   Call(__import__, ("os",)), Call(torch.load, (witness,)),
                   Call(pickle.loads, (b"N.",)), Call(np.array, ([1],)), torch.nn.Linear(2, 2),
                   Call(os.remove, (witness,))]
        for i, value in enumerate(hostile):
            torch.save({"model.embed_tokens.weight": torch.ones(2, 2), "x": value},
                       self.at(f"{i}.pth"))
            self.refused("which no state dict needs", "import", "--from", self.at(f"{i}.pth"),
                         "--out", self.at("x"))
        self.assertFalse(os.path.exists(witness))
        self.assertFalse(os.path.exists(self.at("x")))

    def test_lora_both_ways(self):
        module = "model.layers.0.self_attn.o_proj"
        generator = torch.Generator().manual_seed(SEED)
        adapters = {module + ".lora.A.weight": torch.randn(8, 64, generator=generator) * 0.02,
                    module + ".lora.B.weight": torch.randn(64, 8, generator=generator)}
        for layer in range(2):
            for part in ("q_proj", "o_proj"):
                base = f"model.layers.{layer}.self_attn.{part}"
                adapters.setdefault(base + ".lora.A.weight", torch.zeros(8, 64))
                adapters.setdefault(base + ".lora.B.weight", torch.zeros(64, 8))
        _, weights = self.model(extra=adapters, lora_rank=8)
        done = self.cli("export", "--path", self.at("model"), "--format", "pth", "--lora-only",
                        "--name", "law", "--out", self.at("out"))
        self.assertEqual(done.stdout.strip(), self.at("out", "lora", "law_64.pth"))
        loaded = torch.load(done.stdout.strip(), weights_only=True)
        self.assertEqual(set(loaded), set(adapters))
        for key, value in adapters.items():
            self.assertTrue(torch.equal(loaded[key], value.half()), key)
        self.cli("export", "--path", self.at("model"), "--format", "hf", "--out", self.at("hf"))
        merged = load_file(self.at("hf", "model.safetensors"))
        self.assertEqual(set(merged), set(weights))
        expected = (weights[module + ".weight"] + adapters[module + ".lora.B.weight"] @
                    adapters[module + ".lora.A.weight"])
        self.assertLess((merged[module + ".weight"] - expected).abs().max().item(), 1e-6)
        self.refused("LoRA adapters", "import", "--from", done.stdout.strip(), "--out",
                     self.at("x"))

    def test_resume_opens_and_is_read(self):
        config, weights = self.model()
        moments = {f"{kind}.{key}": torch.rand_like(value)
                   for key, value in weights.items() for kind in ("exp_avg", "exp_avg_sq")}
        self.refused("no checkpoint", "export", "--path", self.at("model"), "--format", "pth",
                     "--optimizer", "--out", self.at("x"))
        save_file(moments, self.at("model", "optimizer.safetensors"))
        state = {"job_id": "j", "step": 12, "generation": 1, "epoch": 1, "seed": 42, "loss": 2.5,
                 "sequences_consumed": 64, "dataset_digest": "", "device_kind": "cpu",
                 "config": {"microbatch_size": 4, "learning_rate": 3e-4, "weight_decay": 0.01},
                 "world_size_history": [{"first_step": 1, "world_size": 2}],
                 "tracker_ids": {"tensorboard": "run-7"}}
        with open(self.at("model", "state.json"), "w") as file:
            json.dump(state, file)
        done = self.cli("export", "--path", self.at("model"), "--format", "pth", "--optimizer",
                        "--out", self.at("out"))
        path = done.stdout.split()[1]
        self.assertEqual(os.path.basename(path), "pretrain_64_resume.pth")
        resume = torch.load(path, weights_only=True)
        self.assertEqual([resume[k] for k in ("epoch", "step", "world_size", "wandb_id")],
                         [1, 8, 2, "run-7"])
        # The reference's modules in the order in which PyTorch numbers their parameters.
        order = ["model.embed_tokens.weight"]
        for layer in range(config["num_hidden_layers"]):
            order += [f"model.layers.{layer}.{name}.weight" for name in (
                "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                "input_layernorm", "post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj",
                "mlp.up_proj")]
        order.append("model.norm.weight")
        parameters = [torch.nn.Parameter(weights[name].clone()) for name in order]
        optimizer = torch.optim.AdamW(parameters, lr=1.0)
        optimizer.load_state_dict(resume["optimizer"])
        self.assertEqual(optimizer.param_groups[0]["lr"], 3e-4)
        for name, parameter in zip(order, parameters):
            kept = optimizer.state[parameter]
            self.assertEqual(kept["step"].item(), 12)
            self.assertTrue(torch.equal(kept["exp_avg"], moments["exp_avg." + name]), name)
            self.assertTrue(torch.equal(kept["exp_avg_sq"], moments["exp_avg_sq." + name]), name)
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()  # it goes on
        resume["optimizer"] = optimizer.state_dict()
        resume["scaler"] = {"scale": 1024.0, "growth_factor": 2.0, "backoff_factor": 0.5,
                            "growth_interval": 2000, "_growth_tracker": 3}
        torch.save(resume, self.at("again_resume.pth"))
        self.cli("import", "--from", self.at("again_resume.pth"), "--out", self.at("in"),
                 "--num-attention-heads", "4")
        back = load_file(self.at("in", "model.safetensors"))
        for key, value in back.items():
            self.assertTrue(torch.equal(value, weights[key].half()), key)


if __name__ == "__main__":
    unittest.main()
