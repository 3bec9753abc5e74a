"""Builds models with random weights in Python, has the C++ model compute the same, and compares:
logits, teacher-forced choices, MoE routing, the losses of 50 training steps. Or trains a model for
500 steps in float16 and in float32.

    parity_test.py dense|qk_norm|moe|dense3|moe3|float16 DRIVER

Every run draws anew. MINDFORGE_PARITY_SEED repeats the run that printed it. Dense models are
transformers' LlamaForCausalLM, those with qk_norm its Qwen3ForCausalLM, mixtures and MiniMind-3
(dense3, moe3) reference_model.py's.
"""
import json
import math
import os
import random
import subprocess
import sys
import tempfile

import safetensors.torch
import torch
from reference_model import ReferenceModel
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

LOGITS = 2e-5        # largest difference of a logit
AUXILIARY = 1e-5     # of the auxiliary loss, which is known as the difference of two losses
LOSS = 1e-5          # largest relative difference of a step's loss
TIE = 4e-5           # the reference's own gap under which a choice may differ
TRAINING_TIE = 2e-5  # relative gap of router scores under which rounding may choose in training
ROUNDING = 3e-7      # relative difference that float32 may make to the reference's own losses
FLOAT16_LOSS = 0.01  # of float16 and float32
STEPS = 50
FLOAT16_STEPS = 500
POSITIONS = 200
MODELS = 3           # drawn by one run
OWN = ("moe", "dense3", "moe3")    # kinds of reference_model.py
MINIMIND3 = ("dense3", "moe3")     # whose config.json has MiniMind-3's fields


class Draw:
    """One model's sizes, weights, inputs and training data, all from one seed."""

    def __init__(self, kind, seed, index):
        self.rng = random.Random(f"{seed} {kind} {index}")
        torch.manual_seed(self.rng.getrandbits(48))
        self.kind, self.index = kind, index
        self.config = self.draw_config()
        self.model = self.build()
        self.randomise()
        c = self.config
        self.ids = torch.randint(0, c["vocab_size"], (4, self.rng.randint(56, 90)))
        self.padding = torch.ones_like(self.ids, dtype=torch.uint8)
        for row in self.padding:
            blocked = self.rng.randint(0, 20)
            if self.rng.random() < 0.5:
                row[:blocked] = 0
            elif blocked:
                row[-blocked:] = 0

    def draw_minimind3(self):
        """As its config.json says it: nothing about q_norm and k_norm, which the tensors show."""
        r = self.rng
        kv_heads, heads = r.choice([(1, 3), (2, 4), (4, 8), (2, 2)])
        # The first model's head_dim does not follow from the other sizes.
        size = r.choice([8, 16, 24])
        hidden = 8 * r.randint(5, 12) if self.index == 0 else heads * size
        config = {
            "vocab_size": r.randint(90, 260), "hidden_size": hidden,
            "num_hidden_layers": r.randint(2, 3), "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "head_dim": size,
            "intermediate_size": 64 * math.ceil(math.pi * hidden / 64),
            "max_position_embeddings": 256, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": r.random() < 0.7, "use_moe": self.kind == "moe3",
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        if self.kind == "moe3":
            # The first chooses one expert, the second two; never all, see below.
            chosen = self.index + 1 if self.index < 2 else r.randint(1, 3)
            config |= {
                "num_experts": r.randint(chosen + 1, 6), "num_experts_per_tok": chosen,
                "moe_intermediate_size": r.randint(40, 160),
                "norm_topk_prob": self.index < 2 or r.random() < 0.5,
                "router_aux_loss_coef": r.uniform(0.01, 0.2)}
        return config

    def draw_config(self):
        if self.kind in MINIMIND3:
            return self.draw_minimind3()
        r = self.rng
        kv_heads, size = r.choice([1, 2, 3]), r.choice([8, 16, 24, 32])
        heads = kv_heads * r.choice([1, 2, 3])
        # The first model with qk_norm has a head_dim that does not follow from the other sizes.
        apart = self.kind == "qk_norm" and (self.index == 0 or r.random() < 0.5)
        moe = self.kind == "moe"
        experts, original = r.randint(2, 6), r.choice([16, 32, 64, 128])
        chosen = r.randint(1, min(3, experts))
        return {
            "vocab_size": r.randint(90, 260), "hidden_size": 8 * r.randint(5, 10) if apart
            else heads * size, "num_hidden_layers": r.randint(2, 3), "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "head_dim": size,
            "intermediate_size": r.randint(40, 160), "max_position_embeddings": 256,
            "rope_theta": 10 ** r.uniform(4, 6), "rms_norm_eps": r.choice([1e-5, 1e-6]),
            "tie_word_embeddings": r.random() < 0.5,
            "yarn": None if moe or r.random() < 0.5 else
            {"factor": 256.0 / original, "original_max_position_embeddings": original,
             "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.0},
            "qk_norm": self.kind == "qk_norm" or (moe and r.random() < 0.5), "use_moe": moe,
            # The three models of one run have both auxiliary losses between them.
            "seq_aux": self.index % 2 == 0, "norm_topk_prob": r.random() < 0.7,
            "n_routed_experts": experts, "n_shared_experts": r.randint(0, 2),
            "num_experts_per_tok": chosen,
            # Who chooses all experts has a balance whose gradient is zero but for rounding, which
            # AdamW would blow up in embeddings that nothing else has a gradient for.
            "aux_loss_alpha": 0.0 if chosen == experts else r.uniform(0.01, 0.2), "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 0}

    def build(self):
        c = dict(self.config)
        if self.kind in OWN:
            return ReferenceModel(dict(c, qk_norm=c.get("qk_norm", True)))
        rope = {"rope_type": "default", "rope_theta": c.pop("rope_theta")}
        yarn = c.pop("yarn")
        if yarn:
            rope.update(yarn, rope_type="yarn")
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                 "num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings",
                 "rms_norm_eps", "tie_word_embeddings", "bos_token_id", "eos_token_id",
                 "pad_token_id")
        fields = {name: c[name] for name in names}
        if self.kind == "dense":
            return LlamaForCausalLM(LlamaConfig(rope_parameters=rope, **fields))
        return Qwen3ForCausalLM(Qwen3Config(rope_parameters=rope, **fields))

    def randomise(self):
        """The specification's distributions, but norms that are not 1 and routers that decide."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.dim() == 1:
                    parameter.normal_(1, 0.2)
                else:
                    bound = 1 / math.sqrt(parameter.shape[1])
                    parameter.uniform_(-bound, bound)
                    if name.endswith("mlp.gate.weight"):
                        parameter.mul_(4)

    def save(self, folder):
        if self.kind not in OWN:
            self.model.save_pretrained(folder)
            return
        os.makedirs(folder)
        fields = {k: v for k, v in self.config.items() if k != "yarn"}
        with open(os.path.join(folder, "config.json"), "w", encoding="ascii") as file:
            json.dump(dict(fields, model_type="minimind"), file)
        state = self.model.state_dict()
        if self.config["tie_word_embeddings"]:
            del state["lm_head.weight"]
        safetensors.torch.save_file(state, os.path.join(folder, "model.safetensors"))

    def forward(self, ids, padding=None):
        """Logits and the auxiliary loss."""
        if self.kind in OWN:
            return self.model(ids, padding)
        mask = None if padding is None else padding.long()
        return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits, 0.0


class Training:
    """Rows of tokens that follow one another with some rule, so that there is something to learn,
    padded at the end; and the reference's losses on them."""

    def __init__(self, draw, steps=STEPS):
        r, vocab = draw.rng, draw.config["vocab_size"]
        self.steps = steps
        self.accumulation, self.batch, self.length = 2, 2, r.randint(16, 22)
        self.learning_rate = 5e-4
        follows = torch.randint(1, vocab, (vocab, 3))
        rows = torch.randint(1, vocab, (steps * self.accumulation * self.batch, self.length + 1))
        for t in range(1, self.length + 1):
            pick = torch.randint(0, 3, (len(rows),))
            rows[:, t] = follows[rows[:, t - 1], pick]
        for row in rows:
            row[self.length + 1 - r.choice([0, 0, 3, 9]):] = 0
        self.rows = rows

    def save_plan(self, path, **tensors):
        safetensors.torch.save_file(
            {"rows": self.rows, **tensors}, path,
            {"steps": str(self.steps), "accumulation": str(self.accumulation),
             "learning_rate": repr(self.learning_rate)})

    def losses(self, draw):
        """None when a router came so close to a tie that rounding decides."""
        model = draw.model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate, weight_decay=0.01)
        microbatches = iter(self.rows.split(self.batch))
        losses = []
        for step in range(1, STEPS + 1):
            rate = self.learning_rate * (0.1 + 0.5 * (1 + math.cos(math.pi * step / STEPS)))
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            total = 0.0
            for _ in range(self.accumulation):
                rows = next(microbatches)
                logits, aux = draw.forward(rows[:, :-1])
                if any(m.relative_gap.min().item() < TRAINING_TIE for m in mixtures(draw)):
                    return None
                mask = (rows[:, 1:] != 0).float().flatten()
                each = functional.cross_entropy(
                    logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
                loss = (each * mask).sum() / mask.sum() + aux
                (loss / self.accumulation).backward()
                total += loss.item() / self.accumulation
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(total)
        return losses


def mixtures(draw):
    return draw.model.mixtures() if draw.kind in OWN else []


def reference_training(draw):
    """Training data, and the reference's losses on it. A mixture's are computed in float64 as well:
    where a choice of experts hangs on rounding that AdamW has blown up over the steps, the two part,
    and the draw says nothing about who else parts from either."""
    start = {name: tensor.clone() for name, tensor in draw.model.state_dict().items()}
    for _ in range(100):
        training = Training(draw)
        losses = training.losses(draw)
        draw.model.load_state_dict(start)
        if losses is not None and mixtures(draw):
            draw.model.double()
            exact = training.losses(draw)
            draw.model.float().load_state_dict(start)
            if exact is None or furthest(losses, exact)[0] > ROUNDING:
                losses = None
        draw.model.eval()
        if losses is not None:
            return training, losses
    raise AssertionError("100 draws of training data all led a router to a tie")


def furthest(losses, expected):
    """The largest relative difference and its step, from 1."""
    return max((abs(a - b) / b, step)
               for step, (a, b) in enumerate(zip(losses, expected, strict=True), 1))


def same_choices(what, expected, got, gap, positions):
    """Choices [N, …] at `positions` are equal where the reference's gap [N] is not a tie."""
    wrong = [p for p in positions
             if gap[p] >= TIE and expected[p].tolist() != got[p].tolist()]
    assert not wrong, (f"{what} differs at {len(wrong)} of {len(positions)} positions, first at "
                       f"{wrong[0]}: {expected[wrong[0]]} expected, {got[wrong[0]]} computed")


def compare(name, got, expected, visible=None):
    difference = (got - expected).abs()
    if visible is not None:
        difference = difference * visible[..., None]
    worst = difference.max().item()
    assert worst <= LOGITS, f"{name}: a logit differs by {worst:.2e}, more than {LOGITS}"
    return worst


def run(driver, backend, folder):
    """What the driver computes of the folder's model and plan."""
    out = os.path.join(folder, backend + ".safetensors")
    subprocess.run([driver, backend, os.path.join(folder, "model"),
                    os.path.join(folder, "plan.safetensors"), out], check=True)
    return safetensors.torch.load_file(out)


def check_float16(draw, driver, folder):
    draw.save(os.path.join(folder, "model"))
    Training(draw, FLOAT16_STEPS).save_plan(os.path.join(folder, "plan.safetensors"))
    exact, half = run(driver, "cpu", folder), run(driver, "half", folder)
    relative = ((half["losses"] - exact["losses"]) / exact["losses"]).abs()
    print(f"  losses {exact['losses'][0]:.3f} -> {exact['losses'][-1]:.3f}, float16's differ by at "
          f"most {relative.max().item():.1e}; {half['skipped'].item()} steps skipped", flush=True)
    assert relative.max() <= FLOAT16_LOSS, f"more than {FLOAT16_LOSS}"


def check(draw, driver, folder):
    draw.model.eval()
    draw.save(os.path.join(folder, "model"))
    with torch.no_grad():
        logits = draw.forward(draw.ids)[0]
        routing = [(m.choices.flatten(0, 1).sort(-1)[0], m.gap.flatten())
                   for m in mixtures(draw)]
        padded = draw.forward(draw.ids, draw.padding)[0]
        draw.model.train()
        auxiliary = float(draw.forward(draw.ids)[1])
        draw.model.eval()
    training, losses = reference_training(draw)
    plan = os.path.join(folder, "plan.safetensors")
    training.save_plan(plan, input_ids=draw.ids, padding_mask=draw.padding)
    best = logits.topk(2, -1).values.flatten(0, 1)
    positions = draw.rng.sample(range(draw.ids.numel()), POSITIONS)
    for backend in ("cpu", "aten", "runner"):
        got = run(driver, backend, folder)
        report = [f"{backend}: logits {compare('logits', got['logits'], logits):.1e}"]
        same_choices("the most likely token", logits.argmax(-1).flatten(),
                     got["logits"].argmax(-1).flatten(), best[:, 0] - best[:, 1], positions)
        if backend != "runner":
            worst = compare("logits with padding", got["padded_logits"], padded,
                            draw.padding.float())
            report.append(f"with padding {worst:.1e}")
            for layer, (choices, gap) in enumerate(routing):
                same_choices(f"the routing of layer {layer}", choices,
                             got["routing"][layer].sort(-1)[0], gap, positions)
            worst = abs(got["aux_loss"].item() - auxiliary)
            assert worst <= AUXILIARY, (f"the auxiliary loss is {got['aux_loss'].item()}, "
                                        f"not {auxiliary}")
            if auxiliary:
                report.append(f"auxiliary loss {worst:.1e} of {auxiliary:.3f}")
            worst, step = furthest(got["losses"].tolist(), losses)
            assert worst <= LOSS, (f"the loss of step {step} differs by {worst:.2e} of itself, more "
                                   f"than {LOSS}")
            report.append(f"losses {worst:.1e} of {losses[0]:.3f} -> {losses[-1]:.3f}")
        print("  " + ", ".join(report), flush=True)


def main():
    kind, driver = sys.argv[1:]
    seed = int(os.environ.get("MINDFORGE_PARITY_SEED") or random.SystemRandom().getrandbits(32))
    print(f"seed {seed} (MINDFORGE_PARITY_SEED={seed} repeats this run)", flush=True)
    torch.set_num_threads(1)
    disable_progress_bar()
    half = kind == "float16"
    for index in range(1 if half else MODELS):
        draw = Draw("dense" if half else kind, seed, index)
        print(json.dumps(draw.config), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            (check_float16 if half else check)(draw, driver, folder)


main()
