"""Exports loaded by transformers, torch, gguf and llama.cpp; their files imported again."""
import collections
import json
import os
import pickle
import random
import subprocess
import tempfile
import unittest
import warnings

warnings.filterwarnings("ignore")
os.environ["HF_HUB_OFFLINE"] = "1"

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

import minimind

try:
    import llama_cpp
except ImportError:  # it has no wheel: it is built where somebody wants the real llama.cpp
    llama_cpp = None

BIN = os.path.join(os.environ["MINDFORGE_BIN"], "mindforge")
SEED = int(os.environ.get("MINDFORGE_TEST_SEED") or random.SystemRandom().randrange(2**31))
YARN = {"rope_type": "yarn", "original_max_position_embeddings": 64, "factor": 4.0,
        "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.0}
POSITIONS = 200


class FilesTest(unittest.TestCase):
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

    # --- Hugging Face ---

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

    def test_moe_stays_minimind(self):
        self.model(use_moe=True, num_experts_per_tok=2, n_routed_experts=4, n_shared_experts=1)
        done = self.cli("export", "--path", self.at("model"), "--format", "hf", "--out",
                        self.at("hf"))
        self.assertIn("model_type minimind", done.stderr)
        with open(self.at("hf", "config.json")) as file:
            self.assertEqual(json.load(file)["model_type"], "minimind")
        self.refused("mixture of experts", "export", "--path", self.at("model"), "--format", "gguf",
                     "--out", self.at("x"))

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

    # --- .pth ---

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

    # --- GGUF ---

    def gguf_fields(self, reader):
        return {name: field.contents() for name, field in reader.fields.items()}

    def test_gguf_holds_shape_tensors_and_tokenizer(self):
        for name, fields in {"llama": {}, "qwen3": {"qk_norm": True, "head_dim": 24,
                                                    "tie_word_embeddings": False}}.items():
            config, weights = self.model(name, **fields)
            for dtype, ending in (("float32", "f32"), ("float16", "f16"), ("bfloat16", "bf16")):
                done = self.cli("export", "--path", self.at(name), "--format", "gguf", "--dtype",
                                dtype, "--out", self.at("out"))
                self.assertEqual(done.stdout.strip(), self.at("out", f"{name}-{ending}.gguf"))
                reader = gguf.GGUFReader(done.stdout.strip())
                read = self.gguf_fields(reader)
                self.check_shape(name, config, read)
                self.check_tokenizer(name, read)
                self.check_tensors(config, weights, reader, getattr(torch, dtype))

    def check_shape(self, name, config, read):
        self.assertEqual(read["general.architecture"], name)
        for key, field in {"block_count": "num_hidden_layers", "embedding_length": "hidden_size",
                           "feed_forward_length": "intermediate_size",
                           "attention.head_count": "num_attention_heads",
                           "attention.head_count_kv": "num_key_value_heads",
                           "attention.key_length": "head_dim", "vocab_size": "vocab_size",
                           "rope.dimension_count": "head_dim",
                           "context_length": "max_position_embeddings"}.items():
            self.assertEqual(read[f"{name}.{key}"], config[field], key)
        self.assertEqual(read[f"{name}.rope.freq_base"], config["rope_theta"])
        self.assertAlmostEqual(read[f"{name}.attention.layer_norm_rms_epsilon"],
                               config["rms_norm_eps"], places=9)

    def check_tokenizer(self, folder, read):
        with open(self.at(folder, "tokenizer.json")) as file:
            tokenizer = json.load(file)
        tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
        self.assertEqual(read["tokenizer.ggml.tokens"], tokens)
        self.assertEqual(read["tokenizer.ggml.merges"],
                         [" ".join(m) for m in tokenizer["model"]["merges"]])
        self.assertEqual(read["tokenizer.ggml.token_type"], [3, 3, 3] + [1] * (len(tokens) - 3))
        self.assertEqual((read["tokenizer.ggml.model"], read["tokenizer.ggml.pre"]),
                         ("gpt2", "gpt-2"))
        self.assertEqual([read[f"tokenizer.ggml.{k}_token_id"] for k in ("bos", "eos", "padding")],
                         [1, 2, 0])
        self.assertIs(bool(read["tokenizer.ggml.add_bos_token"]), False)
        with open(self.at(folder, "tokenizer_config.json")) as file:
            self.assertEqual(read["tokenizer.chat_template"], json.load(file)["chat_template"])

    def check_tensors(self, config, weights, reader, dtype):
        names = gguf.get_tensor_name_map(
            gguf.MODEL_ARCH.QWEN3 if config.get("qk_norm") else gguf.MODEL_ARCH.LLAMA,
            config["num_hidden_layers"])
        stored = {tensor.name: tensor for tensor in reader.tensors}
        self.assertEqual(len(stored), len(weights))
        for key, value in weights.items():
            tensor = stored[names.get_name(key, try_suffixes=(".weight",))]
            self.assertEqual(tuple(reversed(tensor.shape.tolist())), tuple(value.shape))
            heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}.get(
                key.split("self_attn.")[-1].split("_proj")[0])
            if heads and not config.get("qk_norm"):  # as llama.cpp's converter permutes
                value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(
                    value.shape)
            want = value if value.ndim == 1 else value.to(dtype)
            got = torch.from_numpy(tensor.data.copy())
            if want.dtype == torch.bfloat16:
                got = got.view(torch.bfloat16).reshape(want.shape)
            self.assertEqual(got.dtype, want.dtype)
            self.assertTrue(torch.equal(got, want), key)

    def test_gguf_comes_back(self):
        for name, fields in {"llama": {"rope_scaling": YARN}, "qwen3": {"qk_norm": True}}.items():
            config, weights = self.model(name, **fields)
            path = self.cli("export", "--path", self.at(name), "--format", "gguf", "--out",
                            self.at("out")).stdout.strip()
            self.cli("import", "--from", path, "--out", self.at(name + "-in"))
            back = load_file(self.at(name + "-in", "model.safetensors"))
            self.assertEqual(set(back), set(weights))
            for key, value in back.items():
                self.assertTrue(torch.equal(value, weights[key]), key)
            with open(self.at(name + "-in", "config.json")) as file:
                read = json.load(file)
            for field, value in config.items():
                if field not in ("qk_norm", "rope_scaling"):
                    self.assertEqual(read[field], value, field)
            if name == "llama":
                self.assertEqual(read["rope_scaling"], YARN)
            ours = transformers.AutoTokenizer.from_pretrained(self.at(name + "-in"))
            theirs = self.tokenizer(name)
            for i in range(50):
                text = minimind.random_text(SEED + i)
                self.assertEqual(ours(text)["input_ids"], theirs(text)["input_ids"])

    @unittest.skipIf(llama_cpp is None, "llama-cpp-python is not installed")
    def test_llama_cpp_computes_the_same(self):
        cases = {"llama": {}, "untied": {"tie_word_embeddings": False},
                 "qwen3": {"qk_norm": True, "head_dim": 32, "rms_norm_eps": 1e-6},
                 "yarn": {"rope_scaling": YARN}}
        for name, fields in cases.items():
            config, weights = self.model(name, **fields)
            path = self.cli("export", "--path", self.at(name), "--format", "gguf", "--out",
                            self.at("out")).stdout.strip()
            model = llama_cpp.Llama(path, n_ctx=256, n_batch=256, logits_all=True, verbose=False,
                                    n_threads=1, type_k=llama_cpp.GGML_TYPE_F32,
                                    type_v=llama_cpp.GGML_TYPE_F32)
            ids = self.ids(POSITIONS)
            model.eval(ids)
            logits = torch.from_numpy(np.array(model.scores[:POSITIONS]))
            expected = minimind.forward(config, weights, ids)
            equal = (logits.argmax(-1) == expected.argmax(-1)).sum().item()
            difference = (logits - expected).abs().max().item()
            print(f"{name} {equal}/{POSITIONS} {difference:.1e} ", end="", flush=True)
            self.assertEqual(equal, POSITIONS, name)
            tokenizer = self.tokenizer(name)
            for i in range(100):
                text = minimind.random_text(SEED + i)
                self.assertEqual(
                    model.tokenize(text.encode(), add_bos=False, special=True),
                    tokenizer(text)["input_ids"], repr(text))
            model.close()


if __name__ == "__main__":
    unittest.main()
