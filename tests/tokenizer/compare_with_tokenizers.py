#!/usr/bin/env python3
"""Compares our ids with the `tokenizers` package's: corpus, random Unicode, random bytes, random
ids, and training.

    compare_with_tokenizers.py --helper ids_of_lines --tokenizer DIR [--corpus FILE.jsonl]
                               [--seed N]

What is random is drawn anew at each run; the seed is printed, and --seed repeats a run.
Without --corpus the texts are Debian's fortunes (deploy/corpus/fortunes_to_jsonl.py --all), or a
smaller built-in mix where those are not installed. Run it with an interpreter that has
`tokenizers`; without the package it says so and exits with status 77 (skipped).
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

SKIPPED = 77
ROOT = pathlib.Path(__file__).resolve().parents[2]
VOCABULARIES = (2048, 6400)
BUILT_IN = [
    "Hello, world! It's 3.14 o'clock; we'll see…",
    "天生我材必有用，千金散尽还复来。\n\n  两个  空格",
    "def f(x):\n\treturn x**2  # コメント\r\n",
]


def random_texts(count, rng):
    """Strings that mix scripts, white space, contractions, special tokens and all planes."""
    ranges = [
        (0x20, 0x7F), (0x09, 0x0E), (0x80, 0x250), (0x370, 0x530), (0x590, 0x700),
        (0x900, 0xE00), (0x1E00, 0x2100), (0x2000, 0x2070), (0x2150, 0x2190), (0x3000, 0x3100),
        (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xF900, 0xFB50), (0xFE00, 0x10000),
        (0x10000, 0x12000), (0x1D400, 0x1D800), (0x1F000, 0x1FB00), (0x20000, 0x32400),
        (0xE0000, 0xE0200), (0x0, 0x20), (0x7F, 0xA0), (0xE000, 0xF900), (0xFFF0, 0x10000),
        (0x0, 0x110000), *((plane << 16, plane + 1 << 16) for plane in range(17)),
    ]
    pieces = [
        "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'", " '", "  ", " ", "\n", "\r\n",
        "\t", "\u00a0", "\u3000", "\u0085", "\u200b", "<|endoftext|>", "<|im_start|>", "<|im_end|>",
        "<|im_end", "<|", "|>", "<<|im_start|>>", "hello", " world", "2024", "½", "你好", "。", "e\u0301",
        "👩‍👩‍👧‍👦", "👍🏽", "🇨🇳", "❤️", "\u202e", "\ufeff", "\ufffd", "\x00", "\x7f", "<|im_start|>user\n",
        "<|endoftext|><|endoftext|>", "مرحبا", "नमस्ते", "สวัสดี", "привет", "ﷺ", "Ǆ", "ſ", "١٢٣", "Ⅷ",
    ]
    for _ in range(count):
        text = []
        for _ in range(rng.randrange(1, 40)):
            if rng.random() < 0.35:
                text.append(rng.choice(pieces))
                continue
            first, last = rng.choice(ranges)
            for _ in range(rng.randrange(1, 6)):
                c = rng.randrange(first, last)
                if not 0xD800 <= c <= 0xDFFF:
                    text.append(chr(c))
        yield "".join(text)
    # Every code point of the planes in use, next to a letter and to a space.
    step = 256
    for first in (*range(1, 0x32400, step), *range(0xE0000, 0xE0200, step)):
        points = [c for c in range(first, first + step) if not 0xD800 <= c <= 0xDFFF]
        yield "a".join(map(chr, points)) + " ".join(map(chr, points))
    yield "好" * 5000  # a word that no cache or stack array holds


def random_bytes(texts, rng):
    """Texts whose UTF-8 was cut, mixed up or written over, and bytes that never were any."""
    parts = [b"\xff", b"\xc0\x80", b"\xe4\xbd", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98",
             b"\x80", b"\xc2", b"\xe0\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xef\xbf"]
    for text in texts:
        data = bytearray(text.encode())
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data) + 1)
            kind = rng.randrange(4)
            if kind == 0:
                data[at:at] = rng.choice(parts)
            elif kind == 1:
                del data[at:at + rng.randrange(1, 3)]
            elif kind == 2 and at < len(data):
                data[at] = rng.randrange(256)
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 5))
        yield bytes(data)


def corpus_texts(path, folder):
    if not path:
        script = ROOT / "deploy" / "corpus" / "fortunes_to_jsonl.py"
        path = folder / "corpus.jsonl"
        made = subprocess.run(
            [sys.executable, script, "--all", "--out", path], capture_output=True, text=True
        )
        if made.returncode != 0:
            print(f"no fortunes here, built-in texts instead: {made.stderr.strip()}")
            return BUILT_IN * 50
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def write_jsonl(path, texts):
    with open(path, "w", encoding="utf-8") as out:
        for text in texts:
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def run_helper(name, helper, mode, folder, path):
    run = subprocess.run(
        [helper, mode, folder, path], capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        sys.exit(f"{name}: {run.stderr}")
    return run.stdout.split("\n")[:-1], run.stderr.strip()


def compare_ids(name, texts, lines, expected):
    ours = [list(map(int, line.split())) for line in lines]
    if len(ours) != len(texts):
        sys.exit(f"{name}: {len(ours)} lines of ids for {len(texts)} texts")
    for text, got, want in zip(texts, ours, expected):
        if got != want:
            sys.exit(f"{name}: ids differ\n text {text!r}\n ours {got}\n theirs {want}")
    return sum(map(len, ours))


def compare(name, helper, folder, theirs, texts, jsonl):
    lines, speed = run_helper(name, helper, "encode", folder, jsonl)
    start = time.perf_counter()
    expected = [encoding.ids for encoding in map(theirs.encode, texts)]
    seconds = time.perf_counter() - start
    ids = compare_ids(name, texts, lines, expected)
    for text, want in zip(texts, expected):
        if theirs.decode(want, skip_special_tokens=False) != text:
            sys.exit(f"{name}: tokenizers does not decode {text!r} back")
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(
        f"{name}: {len(texts)} texts, {ids} ids equal; ours {speed},"
        f" tokenizers {megabytes / seconds:.1f} MB/s"
    )


def compare_bytes(name, helper, folder, theirs, texts, path):
    """What is not UTF-8 counts as Python's errors='replace' has it."""
    path.write_text("".join(text.hex() + "\n" for text in texts), encoding="ascii")
    lines, _ = run_helper(name, helper, "bytes", folder, path)
    expected = [theirs.encode(text.decode("utf-8", "replace")).ids for text in texts]
    invalid = sum("\ufffd" in text.decode("utf-8", "replace") for text in texts)
    ids = compare_ids(name, texts, lines, expected)
    print(f"{name}: {len(texts)} texts, {invalid} of them not UTF-8, {ids} ids equal")


def compare_decoding(name, helper, folder, theirs, count, rng, path):
    """Ids that no text has: characters cut in two, special tokens anywhere."""
    rows = [[rng.choice((rng.randrange(theirs.get_vocab_size()), rng.randrange(300)))
             for _ in range(rng.randrange(1, 30))] for _ in range(count)]
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows), encoding="ascii")
    lines, _ = run_helper(name, helper, "decode", folder, path)
    if len(lines) != count:
        sys.exit(f"{name}: {len(lines)} texts for {count} rows of ids")
    for row, line in zip(rows, lines):
        for got, skip in zip(line.split(" "), (False, True)):
            want = theirs.decode(row, skip_special_tokens=skip)
            if bytes.fromhex(got).decode() != want:
                sys.exit(f"{name}: texts differ, skip_special_tokens={skip}\n ids {row}\n"
                         f" ours {bytes.fromhex(got)!r}\n theirs {want.encode()!r}")
    print(f"{name}: {count} rows of ids decode to the same texts")


def compare_training(helper, texts, jsonl, folder, size):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    ours_dir = folder / f"trained-{size}"
    start = time.perf_counter()
    subprocess.run([helper, "train", jsonl, str(size), ours_dir], check=True)
    ours_seconds = time.perf_counter() - start
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    start = time.perf_counter()
    theirs.train_from_iterator(texts, trainer=trainer)
    seconds = time.perf_counter() - start
    want = json.loads(theirs.to_str())
    got = json.loads((ours_dir / "tokenizer.json").read_text(encoding="utf-8"))
    for part in ("vocab", "merges"):
        if got["model"][part] != want["model"][part]:
            sys.exit(f"training, {size} entries: our {part} differ from tokenizers'")
    if got["added_tokens"] != want["added_tokens"]:
        sys.exit(f"training, {size} entries: our added tokens differ from tokenizers'")
    print(
        f"training, {size} entries: same vocabulary and merges;"
        f" ours {ours_seconds:.1f} s, tokenizers {seconds:.1f} s"
    )
    return ours_dir


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--helper", required=True, help="the ids_of_lines program")
    parser.add_argument("--tokenizer", required=True, help="folder with MiniMind's tokenizer.json")
    parser.add_argument("--corpus", default="", help="jsonl file with `text`")
    parser.add_argument("--random", type=int, default=10_000, help="random texts (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of what is random (drawn)")
    arguments = parser.parse_args()
    try:
        import tokenizers
    except ImportError:
        print(f"SKIPPED: {sys.executable} has no `tokenizers` package (pip install tokenizers)")
        sys.exit(SKIPPED)

    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        corpus = corpus_texts(arguments.corpus, folder)
        mixed = list(random_texts(arguments.random, rng))
        write_jsonl(folder / "texts.jsonl", corpus)
        write_jsonl(folder / "random.jsonl", mixed)
        folders = {"MiniMind's": pathlib.Path(arguments.tokenizer)}
        for size in VOCABULARIES:
            folders[f"trained {size}"] = compare_training(
                arguments.helper, corpus, folder / "texts.jsonl", folder, size
            )
        for label, where in folders.items():
            theirs = tokenizers.Tokenizer.from_file(str(where / "tokenizer.json"))
            kinds = [("texts", corpus)]
            if label == "MiniMind's":
                kinds.append(("random", mixed))
            for kind, texts in kinds:
                compare(f"{label}, {kind}", arguments.helper, where, theirs, texts,
                        folder / f"{kind}.jsonl")
            broken = list(random_bytes(mixed[:3000], rng))
            compare_bytes(f"{label}, bytes", arguments.helper, where, theirs, broken,
                          folder / "bytes.txt")
            compare_decoding(f"{label}, decoding", arguments.helper, where, theirs, 3000, rng,
                             folder / "ids.txt")


if __name__ == "__main__":
    main()
