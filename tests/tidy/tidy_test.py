"""The rules that a compiler does not check: who may include whom, how long files and functions are,
calls that are banned outside their one home, and TODOs without an owner.

usage: tidy_test.py ROOT [--self-test]
"""
import os
import re
import sys
import tempfile

# room -> rooms it may include besides itself. The longest matching folder names a file's room.
ROOMS = {
    "common": {"proto"},
    "coordinator/scheduler": {"common"},
    "coordinator/store": {"common", "coordinator/scheduler"},
    "coordinator/tracking": {"proto", "common", "coordinator/scheduler", "coordinator/store"},
    "coordinator/gateway": {"proto", "common"},
    "coordinator/rpc": {"proto", "common", "coordinator/scheduler", "coordinator"},
    "coordinator": {"proto", "common", "coordinator/scheduler", "coordinator/store",
                    "coordinator/tracking", "coordinator/rpc", "coordinator/gateway"},
    "worker/tokenizer": {"common"},
    "worker/formats": {"common"},
    "worker/data": {"common", "worker/tokenizer", "worker/formats"},
    "worker/kernels": {"worker/formats"},
    "worker/model": {"common", "worker/kernels", "worker/formats"},
    "worker/dist": {"common"},
    "worker/train": {"common", "worker/model", "worker/data", "worker/dist", "worker/formats",
                     "worker/kernels"},
    "worker/infer": {"common", "worker/model", "worker/kernels", "worker/formats"},
    "worker/serve": {"proto", "common", "worker/infer", "worker/tokenizer", "worker/formats"},
    "worker/agent": {"proto", "common", "worker/formats"},
    "worker": {"proto", "common", "worker/agent", "worker/serve", "worker/train", "worker/infer",
               "worker/formats", "worker/data", "worker/dist"},
    "cli": {"proto", "common", "worker/tokenizer", "worker/formats", "worker/data"},
}
# Third-party headers a room must not see, as patterns of the included path.
NEVER = {
    "common": r"^(torch|ATen|c10|sqlite3)",
    "coordinator": r"^(torch|ATen|c10)",
    "coordinator/scheduler": r"^(grpc|google/protobuf|mindforge/v1|sqlite3|mutex|thread|random|chrono|"
                             r"condition_variable|spdlog|absl/synchronization)",
    "coordinator/store": r"^(grpc|torch|chrono)",
    "coordinator/tracking": r"^(grpc|sqlite3|torch|ATen|c10)",
    "coordinator/rpc": r"^(sqlite3|torch)",
    "coordinator/gateway": r"^(sqlite3|torch)",
    "worker/agent": r"^(torch|ATen|c10|sqlite3)",
    "worker/tokenizer": r"^(torch|ATen|c10|grpc|mindforge/v1)",
    "worker/formats": r"^(torch|ATen|c10|grpc|mindforge/v1)",
    "worker/data": r"^(grpc|mindforge/v1)",
    "worker/model": r"^(grpc|mindforge/v1)",
    "worker/kernels": r"^(torch/|grpc|mindforge/v1)",
    "worker/dist": r"^(grpc|mindforge/v1)",
    "worker/train": r"^(grpc|mindforge/v1)",
    "worker/infer": r"^(grpc|mindforge/v1)",
    "cli": r"^(torch|ATen|c10|sqlite3)",
}
# pattern -> files (prefixes) that may use it.
BANNED = {
    # A line that carries no time of its own gets the time it was read.
    r"\babsl::Now\(": ["common/", "cli/", "worker/agent/log_lines"],
    r"\babsl::SleepFor\(|\bstd::this_thread::sleep|\busleep\(|\bnanosleep\(": [
        "common/subprocess", "common/frame"],
    r"\.detach\(\)\s*;": ["worker/model/", "worker/train/", "worker/infer/", "worker/dist/"],
    r"\bstd::mutex\b": ["common/mutex.h", "worker/kernels/"],
    r"\bstd::random_device\b": ["common/random_id"],
}
FILE_LINES = 400
FUNCTION_LINES = 70
# Files argued for in review: path -> their limit. A ratchet: lower them, never raise.
LONG_FILES = {}


def room_of(path):
    folder = os.path.dirname(path)
    while folder and folder not in ROOMS:
        folder = os.path.dirname(folder)
    return folder


def include_problems(path, lines):
    room = room_of(path)
    if not room:
        return
    for number, line in enumerate(lines, 1):
        match = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
        if not match:
            continue
        target = match.group(2)
        if room in NEVER and re.search(NEVER[room], target):
            yield f"{path}:{number}: room {room} must never see <{target}>"
        top = target.split("/")[0]
        if top == "mindforge":
            if "proto" not in ROOMS[room] and room != "proto":
                yield f"{path}:{number}: room {room} may not include proto ({target})"
        elif top in ("common", "coordinator", "worker", "cli") and "/" in target:
            other = room_of(target)
            if other != room and other not in ROOMS[room]:
                yield f"{path}:{number}: room {room} may not include {other} ({target})"


def length_problems(path, lines):
    limit = LONG_FILES.get(path, FILE_LINES)
    if len(lines) > limit:
        yield f"{path}: {len(lines)} lines, the limit is {limit}: divide it"
    # A function: from the line at column 0 that its signature begins with to the `}` at column 0.
    start, began = None, None
    for number, line in enumerate(lines, 1):
        if re.match(r"[A-Za-z_~]", line):
            began = number
        if start is None and began is not None and re.search(r"\)[^;]*\{\s*$", line):
            if not re.match(r"namespace|class|struct|enum|extern|union", lines[began - 1]):
                start = began
        elif line.startswith("}"):
            began = None
            if start is None:
                continue
            if number - start > FUNCTION_LINES:
                yield (f"{path}:{start}: function of {number - start} lines, the limit is "
                       f"{FUNCTION_LINES}")
            start = None


def call_problems(path, lines):
    for number, line in enumerate(lines, 1):
        code = line.split("//")[0]
        for pattern, homes in BANNED.items():
            if re.search(pattern, code) and not any(path.startswith(home) for home in homes):
                yield f"{path}:{number}: `{re.search(pattern, code).group(0)}` is banned here"
        if re.search(r"\bTODO\b(?!\([a-z0-9-]+\):)", line):
            yield f"{path}:{number}: a TODO names its owner: TODO(name): ..."


def check(root):
    problems = []
    for top in ("common", "coordinator", "worker", "cli", "tests"):
        for folder, _, names in os.walk(os.path.join(root, top)):
            for name in sorted(names):
                if not name.endswith((".h", ".cc", ".cu")):
                    continue
                full = os.path.join(folder, name)
                path = os.path.relpath(full, root)
                with open(full, encoding="utf-8") as file:
                    lines = file.read().splitlines()
                if top != "tests":
                    problems += include_problems(path, lines)
                    problems += call_problems(path, lines)
                problems += length_problems(path, lines)
    return problems


def self_test():
    """Each rule finds a planted violation."""
    planted = {
        "cli/a.cc": ('#include "coordinator/store/store.h"', "may not include coordinator/store"),
        "coordinator/scheduler/b.h": ("#include <thread>", "must never see <thread>"),
        "worker/agent/c.cc": ("#include <torch/torch.h>", "must never see <torch/torch.h>"),
        "coordinator/d.cc": ("absl::Time t = absl::Now();", "is banned here"),
        "worker/train/e.cc": ("// TODO fix", "a TODO names its owner"),
        "common/f.cc": ("\n" * 401, "the limit is 400"),
        "common/g.cc": ("void F() {\n" + "  x();\n" * 80 + "}\n", "function of 81 lines"),
        "common/h.cc": ("void F(int a,\n       int b) {\n" + "  x();\n" * 80 + "}\n",
                        "function of 82 lines"),
    }
    for path, (text, expected) in planted.items():
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.dirname(os.path.join(root, path)))
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text)
            found = check(root)
            assert any(expected in problem for problem in found), (path, found)
    print(f"{len(planted)} planted violations found")


def main():
    if "--self-test" in sys.argv:
        self_test()
        return 0
    problems = check(sys.argv[1])
    print("\n".join(problems) or "tidy")
    return 1 if problems else 0


sys.exit(main())
