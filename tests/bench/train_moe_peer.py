#!/usr/bin/env python3
"""The peer of `mindforge_bench_train … moe_small`: the reference's mixture of experts with its own
training loop, one step per microbatch.

usage: train_moe_peer.py float32|bfloat16 [steps] [batch] [length]
Prints tokens per second of each step after the first.
"""
import torch
import torch.nn.functional as F
import train_loop
from torch import nn

HIDDEN, LAYERS, HEADS, KV_HEADS, INNER, VOCAB = 512, 8, 8, 2, 1408, 6400
EXPERTS, TOP_K, ALPHA, EPS, THETA = 4, 2, 0.1, 1e-5, 1e6
DIM = HIDDEN // HEADS


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x):
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)).type_as(x)


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, INNER, bias=False)
        self.up_proj = nn.Linear(HIDDEN, INNER, bias=False)
        self.down_proj = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(FeedForward() for _ in range(EXPERTS))
        self.gate = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.shared_experts = nn.ModuleList([FeedForward()])

    def forward(self, x):
        batch, length, _ = x.shape
        flat = x.view(-1, HIDDEN)
        scores = self.gate(flat).softmax(dim=-1)
        weights, chosen = torch.topk(scores, k=TOP_K, dim=-1, sorted=False)
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        counts = torch.zeros(batch, EXPERTS)
        counts.scatter_add_(1, chosen.view(batch, -1), torch.ones(batch, length * TOP_K))
        counts.div_(length * TOP_K / EXPERTS)
        balance = (counts * scores.view(batch, length, -1).mean(dim=1)).sum(dim=1).mean()

        repeated = flat.repeat_interleave(TOP_K, dim=0)
        order = chosen.view(-1)
        y = torch.empty_like(repeated)
        for i, expert in enumerate(self.experts):
            mine = order == i
            y[mine] = expert(repeated[mine]).to(y.dtype)
        y = (y.view(*weights.shape, -1) * weights.unsqueeze(-1)).sum(dim=1).view(x.shape)
        for expert in self.shared_experts:
            y = y + expert(x)
        return y, ALPHA * balance


def rotate(x, cos, sin):
    half = torch.cat((-x[..., DIM // 2:], x[..., :DIM // 2]), dim=-1)
    return x * cos + half * sin


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * DIM, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * DIM, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * DIM, bias=False)
        self.o_proj = nn.Linear(HEADS * DIM, HIDDEN, bias=False)
        self.input_layernorm = RMSNorm()
        self.post_attention_layernorm = RMSNorm()
        self.mlp = Experts()

    def forward(self, h, cos, sin):
        batch, length, _ = h.shape
        x = self.input_layernorm(h)
        q, k, v = (p(x).view(batch, length, -1, DIM).transpose(1, 2)
                   for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        y, balance = self.mlp(self.post_attention_layernorm(h))
        return h + y, balance


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = RMSNorm()
        self.lm_head = nn.Linear(HIDDEN, VOCAB, bias=False)
        self.embed_tokens.weight = self.lm_head.weight

    def forward(self, ids):
        frequencies = THETA ** (-torch.arange(0, DIM, 2).float() / DIM)
        angles = torch.outer(torch.arange(ids.shape[1]).float(), frequencies)
        cos, sin = (torch.cat([t, t], dim=-1) for t in (angles.cos(), angles.sin()))
        h, total = self.embed_tokens(ids), 0.0
        for layer in self.layers:
            h, balance = layer(h, cos, sin)
            total = total + balance
        return self.lm_head(self.norm(h)), total


def loss_of(model, x, y):
    logits, balance = model(x)
    return F.cross_entropy(logits.view(-1, VOCAB).float(), y.reshape(-1)) + balance


if __name__ == "__main__":
    train_loop.run(Model, loss_of, VOCAB)
