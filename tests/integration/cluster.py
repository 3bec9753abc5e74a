"""A mini cluster of the real programs on loopback, every port chosen by the kernel.

Start, kill and restart any of them; wait on conditions with deadlines, never on time. Everything
that a Cluster starts it stops when its `with` block ends.
"""
import json
import os
import re
import signal
import subprocess
import tempfile
import time

SOURCE = os.environ.get("MINDFORGE_SOURCE") or os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("MINDFORGE_BIN") or os.path.join(SOURCE, "build", "release", "bin")
DATA = os.path.join(SOURCE, "tests", "data")
# A slow, noisy machine (or a sanitizer) may take long; a hang must still end.
PATIENCE = float(os.environ.get("MINDFORGE_TEST_PATIENCE", "120"))


def wait_for(condition, what, seconds=None):
    """Polls until `condition()` is truthy and returns it; AssertionError at the deadline."""
    deadline = time.monotonic() + (seconds or PATIENCE)
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


class Program:
    """One of the daemons; its output is kept, its addresses are read from it."""

    def __init__(self, name, args, log_path, env=None, programs=BIN, cwd=None):
        self.name, self.args, self.log_path = name, args, log_path
        self.log = open(log_path, "ab")
        self.offset = self.log.tell()
        self.process = subprocess.Popen(
            [os.path.join(programs, name), *args], stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=self.log, env={**os.environ, **(env or {})}, start_new_session=True, cwd=cwd)

    @property
    def pid(self):
        return self.process.pid

    def output(self):
        with open(self.log_path, "rb") as file:
            file.seek(self.offset)
            return file.read().decode("utf-8", "replace")

    def address(self, pattern):
        """The first match of a regex with one group in what it has said since its start."""
        def find():
            match = re.search(pattern, self.output())
            if not match and self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n"
                                     + self.output()[-3000:])
            return match and match.group(1)
        return wait_for(find, f"{self.name} to say {pattern}")

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def terminate(self, seconds=60):
        """SIGTERM, then its exit status; SIGKILL and an error when it does not drain."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not drain:\n{self.output()[-3000:]}") from None

    def descendants(self, name):
        """Pids of child processes (of any thread) whose program is `name`."""
        found = []
        for pid in os.listdir("/proc"):
            if not pid.isdigit():
                continue
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
                if parent != self.pid:
                    continue
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == name:
                    found.append(int(pid))
            except (OSError, ValueError):
                continue
        return found


class Cluster:
    """Coordinator, workers and inference workers in one temporary folder."""

    def __init__(self, programs=BIN, cwd=None):
        self.programs_folder, self.cwd = programs, cwd
        self.folder_object = tempfile.TemporaryDirectory(prefix="mindforge-test-")
        self.folder = self.folder_object.name
        self.programs = []
        self.coordinator = None
        self.server = None
        self.metrics = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        failed = _[0] is not None
        for program in reversed(self.programs):
            program.kill()
            if failed:
                print(f"---- {program.name} ({program.log_path})\n{program.output()[-4000:]}")
        self.folder_object.cleanup()

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def start(self, name, args, log, env=None):
        program = Program(name, args, self.path(log), env, self.programs_folder, self.cwd)
        self.programs.append(program)
        return program

    def start_coordinator(self, listen="127.0.0.1:0", extra=()):
        self.coordinator = self.start(
            "mindforge-coordinator",
            ["--listen", listen, "--metrics", "127.0.0.1:0", "--data-dir", self.path("coordinator"),
             *extra], "coordinator.log")
        self.server = self.coordinator.address(r"listening on (127\.0\.0\.1:\d+)")
        self.metrics = self.coordinator.address(r"metrics on (?:http://)?(127\.0\.0\.1:\d+)")
        return self.coordinator

    def restart_coordinator(self, extra=()):
        """kill -9, then the same data on the same port."""
        self.coordinator.kill()
        return self.start_coordinator(self.server, extra)

    def start_worker(self, name, devices="cpu:1", threads=1):
        return self.start(
            "mindforge-worker",
            ["--coordinator", self.server, "--name", name, "--devices", devices,
             "--threads-per-device", str(threads), "--metrics", "127.0.0.1:0",
             "--data-dir", self.path(name)], f"{name}.log")

    def start_inference(self, name="serve", extra=()):
        return self.start(
            "mindforge-inference",
            ["--coordinator", self.server, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0",
             *extra], f"{name}.log")

    def cli(self, *args, check=True, timeout=None, stdin=None):
        """Runs `mindforge ARGS` against the coordinator; the finished process."""
        done = subprocess.run(
            [os.path.join(self.programs_folder, "mindforge"), "--server", self.server or "127.0.0.1:1", *args],
            capture_output=True, text=True, timeout=timeout or PATIENCE, input=stdin, check=False,
            cwd=self.cwd)
        if check and done.returncode != 0:
            raise AssertionError(f"mindforge {' '.join(args)} exited {done.returncode}\n"
                                 f"{done.stdout}\n{done.stderr}")
        return done

    def json(self, *args):
        return json.loads(self.cli("-o", "json", *args).stdout)

    def job(self, name):
        answer = self.json("job", "get", name)
        return answer.get("job", answer)

    def wait_job(self, name, state, seconds=None):
        def reached():
            job = self.job(name)
            now = job["state"].replace("JOB_STATE_", "")
            if now != state and now in ("FAILED", "CANCELLED", "SUCCEEDED"):
                raise AssertionError(f"job {name} is {now}, not {state}: {job.get('reason')}")
            return job if now == state else None
        return wait_for(reached, f"job {name} to be {state}", seconds)

    def step(self, name):
        return int(self.job(name).get("progress", {}).get("step", 0))


def write_corpus(path, lines=400):
    """A small text of two languages, the same at every call."""
    words = ("moon river night autumn wind 明月 清風 山水 故人 千里 秋色 the of and light "
             "water cloud 白雲 黃鶴 長江 天際 spring flower bird sleep rain").split()
    state = 7
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(lines):
            text = []
            for _ in range(12 + state % 40):
                state = (state * 1103515245 + 12345) % (1 << 31)
                text.append(words[(state >> 8) % len(words)])
            file.write(json.dumps({"text": " ".join(text)}, ensure_ascii=False) + "\n")


def job_file(cluster, name, more=None, **changes):
    """Writes NAME.yaml for a tiny model; `more` and `changes` are dotted keys with __ for the dot."""
    data = cluster.path("data.jsonl")
    if not os.path.exists(data):
        write_corpus(data)
    spec = {
        "name": name,
        "model": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "num_key_value_heads": 2, "max_position_embeddings": 512},
        "data": {"path": data, "tokenizer": os.path.join(DATA, "tokenizer"), "max_seq_len": 64,
                 "packing": True},
        "training": {"epochs": 1, "microbatch_size": 2, "accumulation_steps": 4,
                     "learning_rate": 1e-3, "dtype": "float32", "max_steps": 30},
        "workers": {"min": 1, "max": 2, "device": "cpu"},
        "checkpoint": {"every_steps": 10, "keep_last": 3, "dir": cluster.path("checkpoints")},
        "log_every_steps": 5,
    }
    for key, value in {**(more or {}), **changes}.items():
        target = spec
        *parents, last = key.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    path = cluster.path(f"{name}.yaml")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file)  # JSON is YAML
    return path
