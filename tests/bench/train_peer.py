#!/usr/bin/env python3
"""The peer of train_bench.cc: transformers' Llama of the same shape, one step per microbatch.

usage: train_peer.py float32|bfloat16 [steps] [batch] [length]
Prints tokens per second of each step after the first.
"""
import contextlib
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def main():
    dtype = sys.argv[1] if len(sys.argv) > 1 else "float32"
    steps, batch, length = (
        int(sys.argv[i]) if len(sys.argv) > i else d for i, d in ((2, 3), (3, 4), (4, 512)))
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=512, num_hidden_layers=8, vocab_size=6400, num_attention_heads=8,
        num_key_value_heads=2, intermediate_size=1408, max_position_embeddings=32768,
        rope_theta=1e6, rms_norm_eps=1e-5, tie_word_embeddings=True, use_cache=False,
        attn_implementation="sdpa")
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=5e-4, weight_decay=0.01, fused=True)
    tokens = torch.randint(config.vocab_size, (batch, length + 1))
    x, y = tokens[:, :-1], tokens[:, 1:]
    cast = (torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16"
            else contextlib.nullcontext())
    for step in range(steps + 1):
        begin = time.perf_counter()
        with cast:
            logits = model(x).logits
            loss = torch.nn.functional.cross_entropy(
                logits.view(-1, config.vocab_size).float(), y.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        took = time.perf_counter() - begin
        if step > 0:
            print(f"{batch * length / took:.1f}", flush=True)
    print(f"loss {loss.item():.4f}, {torch.get_num_threads()} threads", file=sys.stderr)


if __name__ == "__main__":
    main()
