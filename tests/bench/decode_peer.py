"""The peer of mindforge_bench_decode: transformers' Llama of the same shape, greedy with its KV cache.

With --moe: a mixture of experts, against moe_peer.py's loop in PyTorch.

usage: decode_peer.py make DIR             write a 26 M model with random weights as a Hugging Face folder
       decode_peer.py run DIR [options]    time it; one JSON line per dtype and batch size
       decode_peer.py report FILE...       ratios of medians, best dtype of each side
"""
import argparse
import json
import statistics
import sys
import time

import moe_peer

VOCAB = 6400


def make(folder):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2,
        intermediate_size=1408, vocab_size=6400, max_position_embeddings=32768, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    LlamaForCausalLM(config).save_pretrained(folder)


def prompt(row, length, vocab):
    return [(row * 7919 + i * 104729 + 17) % vocab for i in range(length)]


def llama(folder, dtype):
    """A function that begins a sequence: it returns step(ids) -> logits of the last position."""
    from transformers import DynamicCache, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    def begin():
        cache = DynamicCache(config=model.config)
        return lambda ids: model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    return begin


def mixture(folder, dtype):
    model = moe_peer.MoeModel(folder, dtype)

    def begin():
        cache = []
        return lambda ids: model(ids, cache)[:, -1]

    return begin


def run(folder, threads, length, steps, batches, dtypes, moe):
    import torch

    torch.set_num_threads(threads)
    for name in dtypes:
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[name]
        begin = (mixture if moe else llama)(folder, dtype)
        for batch in batches:
            ids = torch.tensor([prompt(row, length, VOCAB) for row in range(batch)])
            gaps, greedy = [], []
            with torch.inference_mode():
                step = begin()
                logits = step(ids)
                for _ in range(steps):
                    token = logits.argmax(-1, keepdim=True)
                    greedy.append(int(token[0]))
                    start = time.perf_counter()
                    logits = step(token)
                    logits.argmax(-1)
                    gaps.append(time.perf_counter() - start)
            median = statistics.median(gaps[2:])
            engine = "PyTorch loop" if moe else "transformers"
            print(json.dumps({"engine": engine, "dtype": name, "batch": batch, "steps": len(gaps),
                              "median_step_ms": round(median * 1e3, 4),
                              "tokens_per_second": round(batch / median, 1), "greedy": greedy[:8]}),
                  flush=True)


def report(paths, moe):
    lines = [json.loads(line) for path in paths for line in open(path) if line.startswith("{")]
    targets = {} if moe else {1: 2.0, 32: 1.2}
    peer = next(line["engine"] for line in lines if line["engine"] != "mindforge")
    ok = True
    for batch in sorted({line["batch"] for line in lines}):
        best = {}
        for engine in ("mindforge", peer):
            rates = {}
            for line in lines:
                if line["batch"] == batch and line["engine"] == engine:
                    rates.setdefault(line["dtype"], []).append(line["tokens_per_second"])
            dtype, rate = max(((d, statistics.median(r)) for d, r in rates.items()), key=lambda x: x[1])
            best[engine] = rate
            print(f"batch {batch:3d}  {engine:12s} {dtype:4s} {rate:9.1f} tokens/s")
        ratio = best["mindforge"] / best[peer]
        wanted = targets.get(batch)
        verdict = "" if wanted is None else f" (wanted {wanted}x: {'yes' if ratio >= wanted else 'NO'})"
        ok &= wanted is None or ratio >= wanted
        print(f"{'MoE ' if moe else ''}batch {batch:3d}  ratio {ratio:.2f}x{verdict}")
    return 0 if ok else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "run", "report"])
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--dtype", action="append", choices=["f32", "bf16"])
    parser.add_argument("--moe", action="store_true")
    args = parser.parse_args()
    if args.what == "make":
        return (moe_peer.make if args.moe else make)(args.paths[0])
    if args.what == "report":
        return report(args.paths, args.moe)
    return run(args.paths[0], args.threads, args.prompt, args.steps, args.batch or [1, 32],
               args.dtype or ["f32", "bf16"], args.moe)


sys.exit(main())
