"""The timed loop of the training peers: AdamW, clipped gradients, one step a microbatch of random ids."""
import contextlib
import sys
import time

import torch


def run(make_model, loss_of, vocab):
    """Reads `float32|bfloat16 [steps] [batch] [length]` and prints tokens per second of each step after the first.

    make_model(): a torch.nn.Module; loss_of(model, x, y): its loss of ids x [batch, length] that predict y.
    """
    dtype = sys.argv[1] if len(sys.argv) > 1 else "float32"
    steps, batch, length = (
        int(sys.argv[i]) if len(sys.argv) > i else d for i, d in ((2, 3), (3, 4), (4, 512)))
    torch.manual_seed(1)
    model = make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01, fused=True)
    tokens = torch.randint(vocab, (batch, length + 1))
    x, y = tokens[:, :-1], tokens[:, 1:]
    cast = (torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16"
            else contextlib.nullcontext())
    for step in range(steps + 1):
        begin = time.perf_counter()
        with cast:
            loss = loss_of(model, x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        took = time.perf_counter() - begin
        if step > 0:
            print(f"{batch * length / took:.1f}", flush=True)
    print(f"loss {loss.item():.4f}, {torch.get_num_threads()} threads", file=sys.stderr)
