"""Images, compose file, systemd units and their configuration files: linted, and held against what the
programs really take. There is no container engine here, so nothing of it is run.

Exit 77 where a Python package is missing (tests/requirements.txt).
"""
import configparser
import os
import re
import shutil
import subprocess
import sys

try:
    import yaml
except ImportError:
    print("SKIPPED: python package pyyaml is not installed (tests/requirements.txt has it)")
    sys.exit(77)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# program -> where its flags are declared, and its configuration message.
PROGRAMS = {
    "mindforge-coordinator": (["coordinator/main.cc"], "CoordinatorConfig"),
    "mindforge-worker": (["worker/agent_main.cc"], "WorkerConfig"),
    "mindforge-inference": (["worker/inference_main.cc"], "InferenceConfig"),
    "mindforge": (None, None),  # all of cli/
}


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def flags_of(program):
    files = PROGRAMS[program][0] or ["cli/" + name for name in os.listdir(os.path.join(ROOT, "cli"))
                                     if name.endswith(".cc")]
    found = set(re.findall(r'"(?:-\w,)?(--[a-z-]+)"', "".join(read(path) for path in files)))
    if program == "mindforge":
        found |= {"--output"}
    return found


def config_fields(message):
    body = re.search(rf"^message {message} \{{(.*?)^\}}", read("proto/mindforge/v1/config.proto"),
                     re.MULTILINE | re.DOTALL).group(1)
    return set(re.findall(r"^\s+\w+ (\w+) = \d+;", body, re.MULTILINE))


def command_problems(where, command):
    """`command` is a list or a shell line that runs one of our programs."""
    text = command if isinstance(command, str) else " ".join(command)
    match = re.search(r"\bmindforge(-coordinator|-worker|-inference)?(?= )", text)
    if not match:
        return
    program = match.group(0)
    known = flags_of(program)
    for flag in re.findall(r"(?<!\S)--[a-z-]+", text[match.end():]):
        if flag not in known:
            yield f"{where}: {program} has no flag {flag}"


def dockerfile_problems():
    hadolint = os.path.join(os.path.dirname(sys.executable), "hadolint")
    if not os.path.exists(hadolint):
        hadolint = shutil.which("hadolint")
    folder = os.path.join(ROOT, "deploy/images")
    files = sorted(name for name in os.listdir(folder) if name.endswith(".Dockerfile"))
    assert files == ["coordinator.Dockerfile", "worker.Dockerfile"], files
    for name in files:
        text = read(f"deploy/images/{name}")
        if hadolint:
            lint = subprocess.run([hadolint, os.path.join(folder, name)], capture_output=True, text=True)
            if lint.returncode != 0:
                yield f"{name}: {lint.stdout}{lint.stderr}"
        else:
            print("hadolint is not installed: Dockerfiles are not linted (tests/requirements.txt)")
        for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
            if not os.path.exists(os.path.join(ROOT, source)):
                yield f"{name}: copies {source}, which is not there"
        for argument in re.findall(r"RUN \S*install_deps\.sh (\w+)", text):
            if not re.search(rf"^\s+{argument}\) ", read("deploy/install_deps.sh"), re.MULTILINE):
                yield f"{name}: install_deps.sh knows no set {argument}"
        for target in re.findall(r"--target ([a-z \-]+?) *\\?$", text, re.MULTILINE):
            cmake = "".join(read(path) for path in ("cli/CMakeLists.txt", "coordinator/CMakeLists.txt",
                                                    "worker/CMakeLists.txt"))
            for one in target.split():
                if not re.search(rf"mindforge_add_program\({one}\b", cmake):
                    yield f"{name}: no program {one}"
        if not re.search(r"^USER 10001", text, re.MULTILINE):
            yield f"{name}: runs as root"


def compose_problems():
    compose = yaml.safe_load(read("deploy/compose.yaml"))
    services = compose["services"]
    assert {"coordinator", "worker", "inference"} <= set(services)
    for name, service in services.items():
        where = f"compose.yaml: {name}"
        yield from command_problems(where, service.get("command", []))
        health = service.get("healthcheck", {}).get("test", [])
        yield from command_problems(where + " healthcheck", " ".join(health[1:]))
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                if not os.path.exists(os.path.join(ROOT, "deploy", source)):
                    yield f"{where}: mounts {source}, which is not there"
            elif source not in compose["volumes"]:
                yield f"{where}: no volume {source}"
        for needed in service.get("depends_on", {}):
            if needed not in services:
                yield f"{where}: depends on {needed}, which is no service"
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                yield f"{where}: publishes {port} beyond loopback without TLS"
        if "build" in service and not os.path.exists(
                os.path.join(ROOT, service["build"]["dockerfile"])):
            yield f"{where}: no {service['build']['dockerfile']}"
    for name in yaml.safe_load(read("deploy/compose.gpu.yaml"))["services"]:
        if name not in services:
            yield f"compose.gpu.yaml: {name} is no service"
    names = {scrape["dns_sd_configs"][0]["names"][0]
             for scrape in yaml.safe_load(read("deploy/prometheus/compose.yml"))["scrape_configs"]}
    if not names <= set(services):
        yield f"prometheus/compose.yml: {names - set(services)} are no services"


def unit_problems():
    for name in ("coordinator", "worker", "inference"):
        path = f"deploy/systemd/mindforge-{name}.service"
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str
        unit.read_string(read(path))
        service = unit["Service"]
        yield from command_problems(path, service["ExecStart"])
        if service["User"] == "root" or service["NoNewPrivileges"] != "yes":
            yield f"{path}: has rights it does not need"
        config = yaml.safe_load(read(f"deploy/systemd/{name}.yaml"))
        fields = config_fields(PROGRAMS[f"mindforge-{name}"][1])
        for key in config:
            if key not in fields:
                yield f"deploy/systemd/{name}.yaml: no field {key}"
        for key in re.findall(r"^# (\w+):", read(f"deploy/systemd/{name}.yaml"), re.MULTILINE):
            if key not in fields:
                yield f"deploy/systemd/{name}.yaml: the comment names {key}, which is no field"
        if shutil.which("systemd-analyze"):
            verify = subprocess.run(["systemd-analyze", "verify", os.path.join(ROOT, path)],
                                    capture_output=True, text=True)
            for line in verify.stderr.splitlines():
                if "not executable" not in line and f"mindforge-{name}" in line:
                    yield f"systemd-analyze: {line}"


def main():
    # Each check finds a planted mistake.
    assert list(command_problems("x", ["mindforge-worker", "--bogus", "1"]))
    assert not list(command_problems("x", ["mindforge-worker", "--devices", "cpu:1"]))
    assert "devices" in config_fields("WorkerConfig") and "bogus" not in config_fields("WorkerConfig")
    problems = [*dockerfile_problems(), *compose_problems(), *unit_problems()]
    print("\n".join(problems) or "images, compose file and units agree with the programs")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
