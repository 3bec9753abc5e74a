"""MiniMind's forward pass in PyTorch, written from its specification, and random models for tests."""
import json
import math
import os
import random

import torch
from safetensors.torch import load_file, save_file

DATA = os.environ["MINDFORGE_TEST_DATA"]


def inverse_frequencies(config):
    dim = config["head_dim"]
    theta = config["rope_theta"]
    frequencies = [theta ** (-2 * i / dim) for i in range(dim // 2)]
    scaling = config.get("rope_scaling")
    if scaling is None:
        return frequencies, 1.0
    assert scaling["rope_type"] == "yarn"
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]

    def place(beta):
        return dim * math.log(original / (2 * math.pi * beta)) / (2 * math.log(theta))

    low = max(math.floor(place(scaling["beta_fast"])), 0)
    high = min(math.ceil(place(scaling["beta_slow"])), dim // 2 - 1)
    for i in range(dim // 2):
        ramp = min(max((i - low) / max(high - low, 0.001), 0), 1)
        frequencies[i] *= 1 - ramp + ramp / factor
    return frequencies, scaling.get("attention_factor", 1.0)


def norm(x, weight, eps):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def mlp(h, w, name):
    gate = torch.nn.functional.silu(h @ w(name + "gate_proj").T)
    return (gate * (h @ w(name + "up_proj").T)) @ w(name + "down_proj").T


def mixture(config, h, w):
    """MiniMind-3's: the chosen experts' weights sum to one, one expert's too."""
    scores = (h @ w("mlp.gate").T).softmax(-1)
    weight, chosen = scores.topk(config["num_experts_per_tok"])
    if config["norm_topk_prob"]:
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
    weights = torch.zeros_like(scores).scatter(-1, chosen, weight)
    return sum(weights[:, e:e + 1] * mlp(h, w, f"mlp.experts.{e}.")
               for e in range(config["num_experts"]))


def forward(config, weights, ids):
    """Logits [seq, vocabulary] of one sequence, float32."""
    eps, dim = config["rms_norm_eps"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    frequencies, attention_factor = inverse_frequencies(config)
    angles = torch.outer(torch.arange(len(ids)).double(), torch.tensor(frequencies).double())
    cos, sin = (torch.cat([f(angles)] * 2, -1).float() * attention_factor
                for f in (torch.cos, torch.sin))

    def rotate(x):  # [heads, seq, dim]
        half = torch.cat([-x[..., dim // 2:], x[..., :dim // 2]], -1)
        return x * cos + half * sin

    x = weights["model.embed_tokens.weight"][ids]
    blocked = torch.full((len(ids), len(ids)), float("-inf")).triu(1)
    for layer in range(config["num_hidden_layers"]):
        def w(name):
            return weights[f"model.layers.{layer}.{name}.weight"]

        h = norm(x, w("input_layernorm"), eps)
        q, k, v = ((h @ w(f"self_attn.{p}_proj").T).view(len(ids), -1, dim).transpose(0, 1)
                   for p in "qkv")
        if config.get("qk_norm"):
            q, k = norm(q, w("self_attn.q_norm"), eps), norm(k, w("self_attn.k_norm"), eps)
        q, k = rotate(q), rotate(k)
        k, v = (t.repeat_interleave(heads // kv_heads, 0) for t in (k, v))
        scores = (q @ k.transpose(1, 2) / math.sqrt(dim) + blocked).softmax(-1)
        x = x + (scores @ v).transpose(0, 1).reshape(len(ids), -1) @ w("self_attn.o_proj").T
        h = norm(x, w("post_attention_layernorm"), eps)
        x = x + (mixture(config, h, w) if config.get("use_moe") else mlp(h, w, "mlp."))
    x = norm(x, weights["model.norm.weight"], eps)
    return x @ weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).T


def shapes_of(config):
    hidden, dim = config["hidden_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    middle = config["intermediate_size"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        shapes |= {p + "self_attn.q_proj.weight": (query, hidden),
                   p + "self_attn.k_proj.weight": (key, hidden),
                   p + "self_attn.v_proj.weight": (key, hidden),
                   p + "self_attn.o_proj.weight": (hidden, query),
                   p + "input_layernorm.weight": (hidden,),
                   p + "post_attention_layernorm.weight": (hidden,)}
        if config.get("qk_norm"):
            shapes |= {p + "self_attn.q_norm.weight": (dim,), p + "self_attn.k_norm.weight": (dim,)}
        mlps, width = [p + "mlp."], middle
        if config.get("use_moe") and "num_experts" in config:
            shapes[p + "mlp.gate.weight"] = (config["num_experts"], hidden)
            mlps = [f"{p}mlp.experts.{e}." for e in range(config["num_experts"])]
            width = config["moe_intermediate_size"]
        elif config.get("use_moe"):
            shapes[p + "mlp.gate.weight"] = (config["n_routed_experts"], hidden)
            mlps = [f"{p}mlp.experts.{e}." for e in range(config["n_routed_experts"])]
            mlps += [f"{p}mlp.shared_experts.{e}." for e in range(config["n_shared_experts"])]
        for name in mlps:
            shapes |= {name + "gate_proj.weight": (width, hidden),
                       name + "up_proj.weight": (width, hidden),
                       name + "down_proj.weight": (hidden, width)}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    return shapes


BASE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 6400, "intermediate_size": 192,
        "max_position_embeddings": 512, "rope_theta": 1e6, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True}


def make_folder(path, seed, tokenizer=True, extra=None, **fields):
    """A model folder with random weights; returns its configuration and weights."""
    config = BASE | fields
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes_of(config).items():
        noise = torch.randn(shape, generator=generator)
        scale = 1.0 if name == "model.embed_tokens.weight" else shape[-1] ** -0.5
        weights[name] = 1 + 0.1 * noise if len(shape) == 1 else noise * scale
    os.makedirs(path)
    save_file(weights | (extra or {}), os.path.join(path, "model.safetensors"))
    with open(os.path.join(path, "config.json"), "w") as file:
        json.dump(config, file)
    if tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            with open(os.path.join(DATA, "tokenizer", name)) as source:
                text = source.read()
            with open(os.path.join(path, name), "w") as file:
                file.write(text)
    return config, weights


def golden(name):
    """Configuration, weights, input ids and logits of a golden file."""
    with open(os.path.join(DATA, "golden", "index.json")) as file:
        config = json.load(file)[name]["config"]
    config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    tensors = load_file(os.path.join(DATA, "golden", name + ".safetensors"))
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    return config, weights, tensors


def random_text(seed):
    """Text in several scripts, with spaces, digits, emoji and special tokens."""
    source = random.Random(seed)
    pieces = ["hello", " world", "天空", "是蓝色的", "  ", "\n\n", "1234", "!?", "é", "🙂", "don't",
              "\t", " a", "<|im_start|>", "<|im_end|>", "русский", "한국어", "_x", "«»", "\u200d"]
    return "".join(source.choice(pieces) for _ in range(source.randint(1, 30)))
