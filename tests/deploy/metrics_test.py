"""Checks every expression of the Grafana boards and the Prometheus rules in a real Prometheus.

  metrics_test.py                                        names are checked against the source
  metrics_test.py --coordinator HOST:PORT --worker HOST:PORT --inference HOST:PORT
                                                         and against the programs' live /metrics

Fails when an expression is wrong, names a metric that no program declares, or, live, one that no
program exposes within --wait seconds. A metric that only an event brings into being (a recovery, a
GPU) need not be exposed, but must be declared. Exit 77 where Prometheus is not installed.
"""
import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

try:
    import yaml
except ImportError:
    print("SKIPPED: python package pyyaml is not installed (tests/requirements.txt has it)")
    sys.exit(77)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BOARDS = ["deploy/grafana/training.json", "deploy/grafana/serving.json"]
RULES = "deploy/prometheus/rules.yml"
CONFIG = "deploy/prometheus/prometheus.yml"
# Exposed only once something happened, or on some devices alone; prefix mindforge_ left out.
EVENT_ONLY = {
    "recoveries_total", "recovery_seconds", "train_mfu_ratio", "device_memory_bytes",
    "worker_trainer_exits_total",
}
VARIABLES = {
    "$__rate_interval": "30s", "$__interval": "10s", "$__range": "1h",
    "$job": ".*", "$instance": ".*", "${datasource}": "Mindforge",
}
NAME = re.compile(r"\b(mindforge_[a-z0-9_]+|grpc_server_[a-z0-9_]+|mindforge:[a-z0-9_:]+)\b")


def expressions():
    """(where, expression) of every panel and rule."""
    for path in BOARDS:
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            board = json.load(file)
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield f"{path}: {panel['title']}", target["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                match = re.fullmatch(r"label_values\((.+), *\w+\)", variable["query"])
                yield f"{path}: variable {variable['name']}", match.group(1)
    with open(os.path.join(ROOT, RULES), encoding="utf-8") as file:
        for group in yaml.safe_load(file)["groups"]:
            for rule in group["rules"]:
                yield f"{RULES}: {rule.get('alert') or rule['record']}", rule["expr"]


def recorded():
    with open(os.path.join(ROOT, RULES), encoding="utf-8") as file:
        groups = yaml.safe_load(file)["groups"]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def declared():
    """Metric families that the source declares, with their full names."""
    names = set()
    for top in ("common", "coordinator", "worker"):
        for folder, _, files in os.walk(os.path.join(ROOT, top)):
            for name in files:
                if not name.endswith((".cc", ".h")):
                    continue
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    text = file.read()
                for family in re.findall(r'Add(?:Gauge|Counter|Histogram)\(\s*"([a-z0-9_]+)"', text):
                    names.add(family if family.startswith("grpc_") else "mindforge_" + family)
    return names


def family(name, families):
    """The family that a series belongs to: a histogram's _bucket, _sum and _count are its own."""
    if name in families:
        return name
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if base in families else None


def exposed(endpoints):
    names = set()
    for address in endpoints:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        names |= set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    return names


class Prometheus:
    """A real one on a loopback port of its own, ended when the block ends."""

    def __init__(self, endpoints, folder):
        with open(os.path.join(ROOT, CONFIG), encoding="utf-8") as file:
            config = yaml.safe_load(file)
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [os.path.join(ROOT, RULES)]
        for scrape in config["scrape_configs"]:
            program = scrape["job_name"].removeprefix("mindforge-")
            scrape["static_configs"] = [{"targets": endpoints.get(program, [])}]
        self.config = os.path.join(folder, "prometheus.yml")
        with open(self.config, "w", encoding="utf-8") as file:
            yaml.safe_dump(config, file)
        self.folder = folder
        self.log = open(os.path.join(folder, "log"), "w+", encoding="utf-8")

    def __enter__(self):
        for _ in range(5):  # another process may take the free port first
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={self.config}",
                 f"--storage.tsdb.path={self.folder}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}"],
                stdout=self.log, stderr=subprocess.STDOUT)
            if self.wait(lambda: self.get("/-/ready") is not None, 20):
                return self
            self.stop()
        self.log.seek(0)
        raise SystemExit("prometheus did not start:\n" + self.log.read()[-2000:])

    def __exit__(self, *unused):
        self.stop()
        self.log.close()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait(self, condition, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            if condition():
                return True
            time.sleep(0.1)
        return condition()

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode() if error.code in (400, 422) else None
        except OSError:
            return None

    def query(self, expression):
        text = self.get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        return json.loads(text) if text else {"status": "error", "error": "no answer"}


def filled(expression):
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def name_problems(endpoints, wait):
    known, rules = declared(), recorded()
    used = {}
    for where, expression in expressions():
        for name in NAME.findall(expression):
            used.setdefault(name, where)
    problems, families = [], set()
    for name, where in used.items():
        if name in rules:
            continue
        of = family(name, known)
        if of is None:
            problems.append(f"{where}: no program declares {name}")
        elif of.removeprefix("mindforge_") not in EVENT_ONLY:
            families.add(of)
    addresses = [address for addresses in endpoints.values() for address in addresses]
    if addresses:
        # Series of a job are there while it trains: look until all were seen.
        seen, deadline = set(), time.monotonic() + wait
        while not families <= seen and time.monotonic() < deadline:
            seen |= exposed(addresses)
            time.sleep(0.2)
        problems += [f"{used.get(name, name)}: no program exposes {name}"
                     for name in sorted(families - seen)]
    return problems


def query_problems(endpoints):
    problems = []
    with tempfile.TemporaryDirectory() as folder, Prometheus(endpoints, folder) as prometheus:
        targets = sum(len(addresses) for addresses in endpoints.values())

        def scraped():
            answer = prometheus.query("count(up == 1)")
            result = answer.get("data", {}).get("result", [])
            return bool(result) and int(result[0]["value"][1]) >= targets

        if targets and not prometheus.wait(scraped, 30):
            problems.append("prometheus could not scrape every program within 30 s")
        count, empty = 0, []
        for where, expression in expressions():
            count += 1
            answer = prometheus.query(filled(expression))
            if answer["status"] != "success":
                problems.append(f"{where}: {answer.get('error')}: {expression}")
            elif not answer["data"]["result"]:
                empty.append(where)
        print(f"{count} expressions answered" + (f", {count - len(empty)} with data" if targets else ""))
    return problems


def main():
    parser = argparse.ArgumentParser()
    for program in ("coordinator", "worker", "inference"):
        parser.add_argument(f"--{program}", action="append", default=[], metavar="HOST:PORT")
    parser.add_argument("--wait", type=float, default=30)
    args = parser.parse_args()
    missing = [tool for tool in ("prometheus", "promtool") if not shutil.which(tool)]
    if missing:
        print(f"SKIPPED: {', '.join(missing)} not installed (Debian's package `prometheus`)")
        return 77
    endpoints = {name: getattr(args, name) for name in ("coordinator", "worker", "inference")}
    problems = []
    check = subprocess.run(["promtool", "check", "config", os.path.join(ROOT, CONFIG)],
                           capture_output=True, text=True)
    if check.returncode != 0:
        problems.append("promtool check config: " + check.stdout + check.stderr)
    for program, addresses in endpoints.items():
        for address in addresses:
            text = urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read()
            lint = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
            if lint.returncode != 0:
                problems.append(f"promtool check metrics, {program}: "
                                + (lint.stdout + lint.stderr).decode())
    problems += name_problems(endpoints, args.wait)
    problems += query_problems(endpoints)
    print("\n".join(problems) or "all metrics are there")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
