"""MiniMind's mixture of experts with a KV cache, written in PyTorch as the reference is: the peer of decode.sh for
what transformers has no model of."""
import json
import os


def config():
    return dict(model_type="minimind", hidden_size=640, num_hidden_layers=8, num_attention_heads=8,
                num_key_value_heads=2, intermediate_size=1728, vocab_size=6400, max_position_embeddings=32768,
                rms_norm_eps=1e-5, rope_theta=1e6, tie_word_embeddings=True, use_moe=True, num_experts_per_tok=2,
                n_routed_experts=4, n_shared_experts=1, norm_topk_prob=True)


def make(folder):
    """Writes a 145 M model with random weights as a model folder."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    c = config()
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    kv = hidden // c["num_attention_heads"] * c["num_key_value_heads"]
    weights = {}

    def linear(name, out, into):
        weights[name + ".weight"] = (torch.rand(out, into) * 2 - 1) / into**0.5

    def mlp(prefix):
        linear(prefix + "gate_proj", inner, hidden)
        linear(prefix + "up_proj", inner, hidden)
        linear(prefix + "down_proj", hidden, inner)

    linear("model.embed_tokens", c["vocab_size"], hidden)
    weights["model.norm.weight"] = torch.ones(hidden)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, out in (("q", hidden), ("k", kv), ("v", kv), ("o", hidden)):
            linear(f"{layer}self_attn.{name}_proj", out, hidden)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}{name}.weight"] = torch.ones(hidden)
        linear(layer + "mlp.gate", c["n_routed_experts"], hidden)
        for e in range(c["n_routed_experts"]):
            mlp(f"{layer}mlp.experts.{e}.")
        for e in range(c["n_shared_experts"]):
            mlp(f"{layer}mlp.shared_experts.{e}.")
    os.makedirs(folder, exist_ok=True)
    save_file(weights, os.path.join(folder, "model.safetensors"), {"format": "pt"})
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(c, file)


class MoeModel:
    """model(ids, cache) -> logits of the last position; `cache` is a list that the calls fill."""

    def __init__(self, folder, dtype):
        import torch
        from safetensors.torch import load_file

        with open(os.path.join(folder, "config.json")) as file:
            self.config = json.load(file)
        weights = load_file(os.path.join(folder, "model.safetensors"))
        self.weights = {name: value.to(dtype) for name, value in weights.items()}
        dim = self.config["hidden_size"] // self.config["num_attention_heads"]
        frequency = self.config["rope_theta"] ** (-torch.arange(0, dim, 2).float() / dim)
        angle = torch.outer(torch.arange(4096).float(), frequency)
        self.cos = torch.cat([angle.cos(), angle.cos()], -1).to(dtype)
        self.sin = torch.cat([angle.sin(), angle.sin()], -1).to(dtype)

    def norm(self, x, name):
        wide = x.float()
        scaled = wide * (wide.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"]).rsqrt()
        return scaled.type_as(x) * self.weights[name + ".weight"]

    def linear(self, x, name):
        import torch
        return torch.nn.functional.linear(x, self.weights[name + ".weight"])

    def attention(self, x, layer, cache, index):
        import torch
        c = self.config
        batch, length, hidden = x.shape
        dim = hidden // c["num_attention_heads"]
        q, k, v = (self.linear(x, f"{layer}self_attn.{n}_proj").view(batch, length, -1, dim).transpose(1, 2)
                   for n in "qkv")
        start = cache[index][0].size(2) if len(cache) > index else 0
        cos, sin = self.cos[start:start + length], self.sin[start:start + length]

        def turn(t):
            half = dim // 2
            return t * cos + torch.cat([-t[..., half:], t[..., :half]], -1) * sin

        q, k = turn(q), turn(k)
        if len(cache) > index:
            k, v = torch.cat([cache[index][0], k], 2), torch.cat([cache[index][1], v], 2)
            cache[index] = (k, v)
        else:
            cache.append((k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=length > 1, enable_gqa=True)
        return self.linear(out.transpose(1, 2).reshape(batch, length, hidden), f"{layer}self_attn.o_proj")

    def mlp(self, x, prefix):
        import torch
        gate = torch.nn.functional.silu(self.linear(x, prefix + "gate_proj"))
        return self.linear(gate * self.linear(x, prefix + "up_proj"), prefix + "down_proj")

    def moe(self, x, prefix):
        import torch
        c = self.config
        flat = x.view(-1, x.size(-1))
        scores = self.linear(flat, prefix + "gate").softmax(-1)
        weight, chosen = scores.topk(c["num_experts_per_tok"], -1, sorted=False)
        weight = (weight / (weight.sum(-1, keepdim=True) + 1e-20)).view(-1, 1)
        order = chosen.view(-1).argsort()
        ends = chosen.view(-1).bincount(minlength=c["n_routed_experts"]).cumsum(0).tolist()
        result = torch.zeros_like(flat)
        start = 0
        for e, end in enumerate(ends):
            if start == end:
                continue
            rows = order[start:end] // c["num_experts_per_tok"]
            out = self.mlp(flat[rows], f"{prefix}experts.{e}.") * weight[order[start:end]]
            result.index_add_(0, rows, out.to(result.dtype))
            start = end
        for e in range(c["n_shared_experts"]):
            result = result + self.mlp(flat, f"{prefix}shared_experts.{e}.")
        return result.view_as(x)

    def __call__(self, ids, cache):
        x = self.weights["model.embed_tokens.weight"][ids]
        for i in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{i}."
            x = x + self.attention(self.norm(x, layer + "input_layernorm"), layer, cache, i)
            x = x + self.moe(self.norm(x, layer + "post_attention_layernorm"), layer + "mlp.")
        return self.linear(self.norm(x[:, -1:], "model.norm"), "model.embed_tokens")
