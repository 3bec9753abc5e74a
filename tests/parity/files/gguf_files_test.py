"""Exported GGUF read by the gguf package and by llama.cpp, and imported again."""
import json
import unittest

from files_case import POSITIONS, SEED, YARN, FilesCase  # first: it keeps transformers offline

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import load_file

import minimind

try:
    import llama_cpp
except ImportError:  # it has no wheel: it is built where somebody wants the real llama.cpp
    llama_cpp = None


class GgufFilesTest(FilesCase):
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
