#!/usr/bin/env python3
"""The peer of train_bench.cc: transformers' Llama of the same shape, one step per microbatch.

usage: train_peer.py float32|bfloat16 [steps] [batch] [length]
Prints tokens per second of each step after the first.
"""
import torch
import train_loop
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    hidden_size=512, num_hidden_layers=8, vocab_size=6400, num_attention_heads=8,
    num_key_value_heads=2, intermediate_size=1408, max_position_embeddings=32768,
    rope_theta=1e6, rms_norm_eps=1e-5, tie_word_embeddings=True, use_cache=False,
    attn_implementation="sdpa")


def loss_of(model, x, y):
    logits = model(x).logits
    return torch.nn.functional.cross_entropy(
        logits.view(-1, CONFIG.vocab_size).float(), y.reshape(-1))


if __name__ == "__main__":
    train_loop.run(lambda: LlamaForCausalLM(CONFIG), loss_of, CONFIG.vocab_size)
