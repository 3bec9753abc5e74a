#!/usr/bin/env python3
"""Compares the rows of conversations, ids and losses, with what Python makes of the same file: the
folder's own template in Jinja, ids by the `tokenizers` package, labels as the reference finds them.

    compare_conversations.py --helper rows_of_dataset --tokenizer DIR [--seed N]

The chats are drawn anew at each run; the seed is printed, and --seed repeats a run. Without the
packages it says so and exits with status 77 (skipped).
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

SKIPPED = 77
CHATS = 1000
LENGTHS = (24, 96, 400)
WORDS = ("moon 月 river 清風 (x) naïve 42 <think> </think> 你好。 a\tb 'quoted' \"double\" \\n </s> end\n"
         " \n\n  lead trail  😀 {\"k\": 1}").split(" ")
THINKING = ("", "<think>\n\n</think>\n\n", "<think>\nlet me see\n</think>\n\n", "\n", "</think>")


class Chats:
    """Random chats in the form of the reference's data."""

    def __init__(self, rng, has_tools):
        self.rng, self.has_tools = rng, has_tools

    def text(self, least=0):
        return " ".join(self.rng.choice(WORDS) for _ in range(self.rng.randrange(least, 12)))

    def value(self, depth=0):
        kind = self.rng.randrange(7 if depth < 3 else 5)
        if kind == 0:
            return self.rng.choice((None, True, False))
        if kind == 1:
            return self.rng.randrange(-10**6, 10**6)
        if kind == 2:
            return self.rng.choice((0.5, -1e-7, 1e22, 3.25, 1.0))
        if kind < 5:
            return self.text()
        if kind == 5:
            return [self.value(depth + 1) for _ in range(self.rng.randrange(3))]
        return {self.text(): self.value(depth + 1) for _ in range(self.rng.randrange(3))}

    def listed(self, items):
        """A list as it stands, or as its text, as the reference's data have it."""
        return items if self.rng.random() < 0.5 else json.dumps(items, ensure_ascii=False)

    def call(self):
        arguments = {"zulu": self.value(), "alpha": self.value()}
        if self.rng.random() < 0.3:
            arguments = json.dumps(arguments)
        call = {"name": "f_" + str(self.rng.randrange(9)), "arguments": arguments}
        return {"function": call} if self.rng.random() < 0.5 else call

    def answer(self):
        message = {"role": "assistant", "content": self.rng.choice(THINKING) + self.text(1)}
        if not self.has_tools:
            return message
        if self.rng.random() < 0.3:
            message["reasoning_content"] = self.text()
        if self.rng.random() < 0.3:
            message["tool_calls"] = self.listed(
                [self.call() for _ in range(self.rng.randrange(1, 3))])
            if self.rng.random() < 0.5:
                message["content"] = self.rng.choice(("", None))
        return message

    def chat(self):
        messages = []
        if self.rng.random() < 0.5:
            messages.append({"role": "system", "content": self.text()})
            if self.has_tools and self.rng.random() < 0.6:
                messages[0]["tools"] = self.listed(
                    [{"type": "function", "b": self.value(), "a": self.value()}
                     for _ in range(self.rng.randrange(0, 3))])
        for _ in range(self.rng.randrange(1, 5)):
            messages.append({"role": "user", "content": self.text()})
            if self.rng.random() < 0.9:
                messages.append(self.answer())
            while self.has_tools and self.rng.random() < 0.2:
                messages.append({"role": "tool", "content": self.text()})
        return messages


def parsed(value):
    return json.loads(value) if isinstance(value, str) else value


def render(template, conversation):
    """As the reference's create_chat_prompt."""
    messages, tools = [], None
    for given in conversation:
        message = dict(given)
        if message["role"] == "system" and message.get("tools"):
            tools = parsed(message["tools"])
        if message.get("tool_calls"):
            message["tool_calls"] = parsed(message["tool_calls"])
        messages.append(message)
    return template.render(messages=messages, tools=tools, add_generation_prompt=False)


def labels_of(ids, opening, closing):
    """As the reference's generate_labels, for ids that are cut and padded already."""
    labels = [-100] * len(ids)
    i = 0
    while i < len(ids):
        if ids[i:i + len(opening)] != opening:
            i += 1
            continue
        start = end = i + len(opening)
        while end < len(ids) and ids[end:end + len(closing)] != closing:
            end += 1
        for j in range(start, min(end + len(closing), len(ids))):
            labels[j] = ids[j]
        i = end + len(closing)
    return labels


def run(helper, *arguments):
    done = subprocess.run([helper, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    lines = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    return list(zip(lines[0::3], lines[1::3], lines[2::3]))


def compare_padded(rows, documents, length, opening, closing):
    if len(rows) != len(documents):
        sys.exit(f"{len(rows)} rows of {len(documents)} chats")
    losses = 0
    for (inputs, targets, starts), (text, ids) in zip(rows, documents):
        cut = ids[:length]
        labels = labels_of(cut, opening, closing) + [-100] * (length - len(cut))
        want = cut + [0] * (length - len(cut))
        shifted = labels[1:] + [-100]
        if inputs != want or targets != shifted or any(starts):
            sys.exit(f"length {length}: {text!r}\n ids {inputs}\n not {want}\n"
                     f" targets {targets}\n not {shifted}")
        losses += sum(label != -100 for label in shifted)
    print(f"padded to {length}: {len(rows)} rows, {losses} losses equal")


def compare_packed(rows, documents, length, opening, closing):
    stream, labels, begins = [], [], []
    for _, ids in documents:
        begins += [len(stream)] * len(ids)
        # The last id of a chat has no target: what follows belongs to another.
        labels += labels_of(ids, opening, closing)[1:] + [-100]
        stream += ids
    if len(rows) != -(-(len(stream) - 1) // length):
        sys.exit(f"{len(rows)} packed rows of {length} for {len(stream)} ids")
    for number, (inputs, targets, starts) in enumerate(rows):
        at = number * length
        want = stream[at:at + length]
        if (inputs[:len(want)] != want or targets[:len(want)] != labels[at:at + length]
                or starts[:len(want)] != [max(b - at, 0) for b in begins[at:at + length]]
                or any(target != -100 for target in targets[len(want):])):
            sys.exit(f"packed row {number} of length {length} differs:\n {inputs}\n {want}\n"
                     f" {targets}\n {labels[at:at + length]}")
    print(f"packed to {length}: {len(rows)} rows equal")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--helper", required=True, help="the rows_of_dataset program")
    parser.add_argument("--tokenizer", required=True, type=pathlib.Path)
    parser.add_argument("--no-tools", action="store_true", help="the template has no place for them")
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    try:
        import jinja2.sandbox
        import tokenizers
    except ImportError as error:
        print(f"SKIPPED: {sys.executable} has no {error.name} (pip install jinja2 tokenizers)")
        sys.exit(SKIPPED)
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    chats = Chats(random.Random(seed), not arguments.no_tools)
    # As transformers sets Jinja up for chat templates.
    jinja = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    jinja.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    config = json.loads((arguments.tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = jinja.from_string(config["chat_template"])
    theirs = tokenizers.Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json"))
    opening = theirs.encode("<|im_start|>assistant\n").ids
    closing = theirs.encode("<|im_end|>\n").ids
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        documents = []
        with open(folder / "chats.jsonl", "w", encoding="utf-8") as out:
            for _ in range(CHATS):
                conversation = chats.chat()
                out.write(json.dumps({"conversations": conversation}, ensure_ascii=False) + "\n")
                text = render(template, conversation)
                documents.append((text, theirs.encode(text).ids))
        for length in LENGTHS:
            where = (arguments.tokenizer, folder / "chats.jsonl", length)
            compare_padded(run(arguments.helper, *where, "pad", folder / "cache"), documents,
                           length, opening, closing)
            compare_packed(run(arguments.helper, *where, "packed", folder / "cache"), documents,
                           length, opening, closing)


if __name__ == "__main__":
    main()
