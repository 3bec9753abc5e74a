"""MiniMind in plain PyTorch, as its specification states it: what transformers has no class for, the
mixture of experts above all. Written for reading, not for speed: every expert sees its tokens one
expert after the other, and attention holds every score."""
import math

import torch
from torch import nn
from torch.nn import functional


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def rotate(x, theta):  # [B, heads, T, D]
    size = x.shape[-1]
    frequencies = 1.0 / theta ** (torch.arange(0, size, 2).float() / size)
    angles = torch.outer(torch.arange(x.shape[2]).float(), frequencies)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    half = torch.cat([-x[..., size // 2:], x[..., :size // 2]], -1)
    return x * cos + half * sin


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        size = c["head_dim"]
        self.q_proj = linear(c["hidden_size"], c["num_attention_heads"] * size)
        self.k_proj = linear(c["hidden_size"], c["num_key_value_heads"] * size)
        self.v_proj = linear(c["hidden_size"], c["num_key_value_heads"] * size)
        self.o_proj = linear(c["num_attention_heads"] * size, c["hidden_size"])
        if c["qk_norm"]:
            self.q_norm = RMSNorm(size, c["rms_norm_eps"])
            self.k_norm = RMSNorm(size, c["rms_norm_eps"])

    def forward(self, x, padding):  # [B, T, C], [B, T] or None
        c = self.c
        batch, length, _ = x.shape

        def heads(y):
            return y.view(batch, length, -1, c["head_dim"])

        q, k, v = heads(self.q_proj(x)), heads(self.k_proj(x)), heads(self.v_proj(x))
        if c["qk_norm"]:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = (rotate(y.transpose(1, 2), c["rope_theta"]) for y in (q, k))
        groups = c["num_attention_heads"] // c["num_key_value_heads"]
        k = k.repeat_interleave(groups, 1)
        v = v.transpose(1, 2).repeat_interleave(groups, 1)
        scores = q @ k.transpose(2, 3) / math.sqrt(c["head_dim"])
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)[None, None]
        if padding is not None:
            hidden = hidden | (padding == 0)[:, None, None]
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
        y = scores.softmax(-1) @ v
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    def __init__(self, c, inner):
        super().__init__()
        self.gate_proj = linear(c["hidden_size"], inner)
        self.up_proj = linear(c["hidden_size"], inner)
        self.down_proj = linear(inner, c["hidden_size"])

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


def apply_experts(experts, x, weights, choices):  # [B, T, C], [B, T, k], [B, T, k]
    y = torch.zeros_like(x)
    for e, expert in enumerate(experts):
        picked, slot = (choices == e).any(-1), (choices == e).float()
        rows = picked.nonzero(as_tuple=True)
        # Also when there are none: the gradient is then zero, not absent, and AdamW decays.
        part = (weights * slot).sum(-1)[rows][:, None] * expert(x[rows])
        y = y.index_put(rows, part, accumulate=True)
    return y


class MixtureOfExperts(nn.Module):
    """MiniMind2's."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        inner = c["intermediate_size"]
        self.experts = nn.ModuleList(MLP(c, inner) for _ in range(c["n_routed_experts"]))
        self.gate = linear(c["hidden_size"], c["n_routed_experts"])
        self.shared_experts = nn.ModuleList(MLP(c, inner) for _ in range(c["n_shared_experts"]))
        self.aux_loss = 0.0
        self.choices = self.gap = self.relative_gap = None

    def forward(self, x):  # [B, T, C]
        c = self.c
        count, chosen = c["n_routed_experts"], c["num_experts_per_tok"]
        scores = self.gate(x).softmax(-1)  # [B, T, E]
        ranked, order = scores.sort(dim=-1, descending=True, stable=True)
        weights, choices = ranked[..., :chosen], order[..., :chosen]
        # How far the last choice is from the first that was not made, and as a share of it.
        self.gap = (torch.ones_like(ranked[..., 0]) if chosen == count
                    else ranked[..., chosen - 1] - ranked[..., chosen]).detach()
        self.relative_gap = self.gap / ranked[..., chosen - 1].detach()
        self.choices = choices
        if c["norm_topk_prob"] and chosen > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        y = apply_experts(self.experts, x, weights, choices)
        for expert in self.shared_experts:
            y = y + expert(x)
        self.aux_loss = self.balance(scores, choices) if self.training else 0.0
        return y

    def balance(self, scores, choices):
        count, chosen = self.c["n_routed_experts"], self.c["num_experts_per_tok"]
        picks = functional.one_hot(choices, count).sum(2).float()  # [B, T, E]
        if self.c["seq_aux"]:
            load = picks.sum(1) / (picks.shape[1] * chosen / count)  # [B, E]
            loss = (load * scores.mean(1)).sum(1).mean()
        else:
            fraction = picks.mean((0, 1)) / chosen
            loss = (count * fraction * scores.mean((0, 1))).sum()
        return self.c["aux_loss_alpha"] * loss


class Minimind3Mixture(nn.Module):
    """MiniMind-3's: no shared experts, weights that sum to 1 also when there is one, and a balance
    loss over all tokens at once."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.experts = nn.ModuleList(
            MLP(c, c["moe_intermediate_size"]) for _ in range(c["num_experts"]))
        self.gate = linear(c["hidden_size"], c["num_experts"])
        self.aux_loss = 0.0
        self.choices = self.gap = self.relative_gap = None

    def forward(self, x):  # [B, T, C]
        experts, k = self.c["num_experts"], self.c["num_experts_per_tok"]
        scores = functional.softmax(self.gate(x), dim=-1)  # [B, T, E]
        ranked, order = scores.sort(dim=-1, descending=True, stable=True)
        weights, self.choices = ranked[..., :k], order[..., :k]
        self.gap = (ranked[..., k - 1] - ranked[..., k]).detach()  # k < E
        self.relative_gap = self.gap / ranked[..., k - 1].detach()
        if self.c["norm_topk_prob"]:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        self.aux_loss = 0.0
        if self.training:
            load = functional.one_hot(self.choices.reshape(-1, k), experts).float().mean(0)  # [k, E]
            mean = scores.reshape(-1, experts).mean(0)  # [E]
            self.aux_loss = self.c["router_aux_loss_coef"] * experts * (load * mean).sum()
        return apply_experts(self.experts, x, weights, self.choices)


def feed_forward(c):
    if not c["use_moe"]:
        return MLP(c, c["intermediate_size"])
    return Minimind3Mixture(c) if "num_experts" in c else MixtureOfExperts(c)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = feed_forward(c)

    def forward(self, x, padding):
        x = x + self.self_attn(self.input_layernorm(x), padding)
        return x + self.mlp(self.post_attention_layernorm(x))


class ReferenceModel(nn.Module):
    """`config` holds config.json's fields, every size given."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.model.layers = nn.ModuleList(
            Block(config) for _ in range(config["num_hidden_layers"]))
        self.model.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.lm_head = linear(config["hidden_size"], config["vocab_size"])
        if config["tie_word_embeddings"]:
            self.lm_head.weight = self.model.embed_tokens.weight

    def mixtures(self):
        return [layer.mlp for layer in self.model.layers if self.config["use_moe"]]

    def forward(self, ids, padding=None):
        """Logits [B, T, V] and the auxiliary loss, 0 unless training."""
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, padding)
        return self.lm_head(self.model.norm(x)), sum(m.aux_loss for m in self.mixtures())
