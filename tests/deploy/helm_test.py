"""Renders, lints and validates the chart with several sets of values; wrong values are refused.

There is no cluster here: manifests are checked against Kubernetes' own schemas (kubernetes-validate),
the programs' configuration files against proto/mindforge/v1/config.proto, and the pods for what a
careful cluster demands. Exit 77 where the Python packages are missing (tests/requirements.txt).
"""
import json
import os
import re
import sys

try:
    import helm_python
    import kubernetes_validate
    import yaml
except ImportError as error:
    print(f"SKIPPED: {error.name} is not installed (tests/requirements.txt has it)")
    sys.exit(77)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CHART = os.path.join(ROOT, "helm/mindforge")
INSECURE = {"insecure": True, "tls": {"enabled": False}, "token": {"enabled": False}}

GOOD = {
    "defaults": {},
    "insecure": {"security": INSECURE},
    "own secrets": {"security": {"tls": {"existingSecret": "my-tls"},
                                 "token": {"existingSecret": "my-token"}},
                    "storage": {"existingClaim": "nfs"}},
    "gpus": {"worker": {"gpus": 4, "replicas": 3, "resources": {"requests": {"cpu": "8"}},
                        "nodeSelector": {"gpu": "h100"},
                        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]},
             "inference": {"gpus": 1, "dtype": "float32", "maxContext": 1024}},
    "everything": {"fullnameOverride": "forge", "serviceMonitor": {"enabled": True},
                   "networkPolicy": {"enabled": True,
                                     "clients": [{"namespaceSelector": {}}]},
                   "podDisruptionBudget": {"maxUnavailable": "50%"},
                   "image": {"registry": "r.example.com/x", "pullSecrets": ["pull"],
                             "worker": {"digest": "sha256:" + "a" * 64}},
                   "coordinator": {"service": {"type": "LoadBalancer", "port": 443},
                                   "priorityClassName": "high", "podAnnotations": {"a": "b"},
                                   "config": {"worker_lease": "15s"}},
                   "worker": {"devices": "cpu:2", "threadsPerDevice": 1},
                   "inference": {"config": {"threads": 4}}},
}
# values -> what the refusal must name
BAD = [
    ({"worker": {"replica": 3}}, "replica"),
    ({"worker": {"replicas": -1}}, "replicas"),
    ({"worker": {"replicas": "three"}}, "replicas"),
    ({"worker": {"devices": "gpu"}}, "devices"),
    ({"worker": {"config": {"devises": "auto"}}}, "devises"),
    ({"inference": {"dtype": "int4"}}, "dtype"),
    ({"inference": {"gpus": 2}}, "gpus"),
    ({"inference": {"slots": 0}}, "slots"),
    ({"coordinator": {"config": {"worker_lease": "soon"}}}, "worker_lease"),
    ({"coordinator": {"service": {"port": 70000}}}, "port"),
    ({"coordinator": {"service": {"type": "Ingress"}}}, "type"),
    ({"storage": {"size": "lots"}}, "size"),
    ({"storage": {"mountPath": "data"}}, "mountPath"),
    ({"image": {"worker": {"digest": "sha256:abc"}}}, "digest"),
    ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "maxUnavailable"),
    ({"securty": {}}, "securty"),
    # Not a matter of types: refused by the templates.
    ({"security": {"tls": {"enabled": False}}}, "security.insecure=true"),
    ({"security": {"token": {"enabled": False}}}, "security.insecure=true"),
    ({"security": {"tls": {"generate": False}}}, "existingSecret"),
    ({"security": {"token": {"generate": False}}}, "existingSecret"),
]


# Maps that go to Kubernetes as they are: null leaves them out, where another key gets its default.
PASSED_THROUGH = {"podSecurityContext", "containerSecurityContext", "coordinator.resources",
                  "worker.resources", "inference.resources"}


def config_fields():
    """message -> names of its fields, from the proto's text."""
    with open(os.path.join(ROOT, "proto/mindforge/v1/config.proto"), encoding="utf-8") as file:
        text = file.read()
    return {name: set(re.findall(r"^\s+\w+ (\w+) = \d+;", body, re.MULTILINE))
            for name, body in re.findall(r"^message (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL)}


def documents(rendered):
    for path, text in rendered.items():
        if path.endswith(".txt"):
            continue
        for document in yaml.safe_load_all(text):
            if document:
                yield path, document


def pod_of(document):
    if document["kind"] == "Pod":
        return document["spec"]
    return document["spec"]["template"]["spec"] if document["kind"] in ("StatefulSet", "Deployment") else None


def pod_problems(where, pod):
    if not pod["securityContext"].get("runAsNonRoot"):
        yield f"{where}: may run as root"
    if pod.get("automountServiceAccountToken") is not False:
        yield f"{where}: gets a service account token it does not need"
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        context = container["securityContext"]
        if not context["readOnlyRootFilesystem"] or context["allowPrivilegeEscalation"]:
            yield f"{where}: a container may write its image or gain rights"
        if context["capabilities"]["drop"] != ["ALL"]:
            yield f"{where}: keeps capabilities"
        if "memory" not in container["resources"].get("limits", {}) and "gpu" not in str(container["resources"]):
            yield f"{where}: no memory limit"
        if where != "Pod" and "livenessProbe" not in container:
            yield f"{where}: no liveness probe"
        for mount in container["volumeMounts"]:
            if mount["name"] not in volumes and mount["name"] != "state":
                yield f"{where}: mounts {mount['name']}, which is no volume"


# Said by flags of the pods, or for a program that serves one folder without a coordinator.
NOT_FOR_THE_CHART = {"advertise", "name", "model", "lora", "rope_scaling", "prompt_style"}


def unreachable_keys(rendered, fields):
    """Fields of the programs' configuration that no value of the chart can set."""
    with open(os.path.join(CHART, "values.schema.json"), encoding="utf-8") as file:
        schema = json.load(file)["properties"]
    for program, message in (("coordinator", "CoordinatorConfig"), ("worker", "WorkerConfig"),
                             ("inference", "InferenceConfig")):
        known = set(schema[program]["properties"]["config"]["properties"]) | NOT_FOR_THE_CHART
        for documents_of in rendered.values():
            for (kind, name), document in documents_of.items():
                if kind == "ConfigMap" and name.endswith("-" + program):
                    known |= set(yaml.safe_load(document["data"]["config.yaml"]))
        yield from (f"{program}.config: values.schema.json lacks {key} of {message}"
                    for key in sorted(fields[message] - known))


def config_problems(where, document, fields):
    config = yaml.safe_load(document["data"]["config.yaml"])
    message = {"coordinator": "CoordinatorConfig", "worker": "WorkerConfig",
               "inference": "InferenceConfig"}[document["metadata"]["name"].rsplit("-", 1)[1]]
    for key, value in config.items():
        if key not in fields[message]:
            yield f"{where}: {message} has no field {key}"
        if key == "tls":
            yield from (f"{where}: TlsConfig has no field {inner}"
                        for inner in value if inner not in fields["TlsConfig"])


def reference_problems(where, all_documents):
    """Every ConfigMap, Secret and claim that a pod names is rendered, or is the user's own."""
    made = {(d["kind"], d["metadata"]["name"]) for _, d in all_documents}
    for _, document in all_documents:
        for volume in (pod_of(document) or {}).get("volumes", []):
            wanted = [("ConfigMap", volume.get("configMap", {}).get("name")),
                      ("Secret", volume.get("secret", {}).get("secretName")),
                      ("PersistentVolumeClaim",
                       volume.get("persistentVolumeClaim", {}).get("claimName"))]
            for kind, name in wanted:
                if name and (kind, name) not in made and name not in ("my-tls", "my-token", "nfs"):
                    yield f"{where}: {document['metadata']['name']} needs {kind} {name}, which nobody makes"


def check_good(chart, title, values, fields):
    rendered = chart.render(values, name="demo", namespace="ml")
    found = list(documents(rendered))
    problems = list(reference_problems(title, found))
    for path, document in found:
        where = f"{title}: {document['kind']} {document['metadata']['name']}"
        if document["kind"] != "ServiceMonitor":  # the operator's own kind: no schema of Kubernetes
            try:
                kubernetes_validate.validate(document, "1.31", strict=True)
            except kubernetes_validate.ValidationError as error:
                problems.append(f"{where}: {error.message} at {list(error.path)}")
        pod = pod_of(document)
        if pod:
            problems += pod_problems(where if document["kind"] != "Pod" else "Pod", pod)
        if document["kind"] == "ConfigMap":
            problems += config_problems(where, document, fields)
    return problems, {(d["kind"], d["metadata"]["name"]): d for _, d in found}


def paths_of(values, prefix=()):
    """Every key of a tree of values, those of maps and those inside them."""
    for key, value in values.items():
        yield prefix + (key,)
        if isinstance(value, dict):
            yield from paths_of(value, prefix + (key,))


def with_value(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


def at(values, path):
    for key in path:
        values = values[key]
    return values


def check_nulls(chart):
    """A null anywhere means the default, or that a map for Kubernetes is left out."""
    with open(os.path.join(CHART, "values.yaml"), encoding="utf-8") as file:
        values = yaml.safe_load(file)
    with open(os.path.join(CHART, "templates/_defaults.tpl"), encoding="utf-8") as file:
        text = re.search(r'define "mindforge.defaults" -}}(.*?){{- end', file.read(), re.DOTALL)
    defaults = yaml.safe_load(text.group(1))
    for path in PASSED_THROUGH:
        assert at(defaults, path.split(".")) == {}, path
        at(values, path.split(".")[:-1])[path.split(".")[-1]] = {}
    if defaults != values:
        yield "templates/_defaults.tpl does not hold the values of values.yaml"
    with open(os.path.join(CHART, "values.yaml"), encoding="utf-8") as file:
        values = yaml.safe_load(file)
    stable = {"security": {"tls": {"existingSecret": "my-tls"},
                           "token": {"existingSecret": "my-token"}}}

    def render(extra):
        merged = json.loads(json.dumps(stable))
        for key, value in extra.items():
            merged[key] = {**merged[key], **value} if key == "security" and value else value
        chart.validate_schema(merged)
        rendered = chart.render(merged, name="demo", namespace="ml")
        return {(d["kind"], d["metadata"]["name"]): d for _, d in documents(rendered)}

    usual = render({})
    for path in paths_of(values):
        name = ".".join(path)
        if any(name.startswith(prefix + ".") for prefix in PASSED_THROUGH):
            continue  # what a map for Kubernetes then says is its writer's word
        try:
            found = render(with_value(path, None))
        except helm_python.HelmError as error:
            yield f"{name}: null is refused: {error}"
            continue
        changed = [document for key, document in found.items() if document != usual.get(key)]
        for document in changed:
            try:
                kubernetes_validate.validate(document, "1.31", strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name}: null renders {error.message} at {list(error.path)}"
        passed_through = any(inner == name or inner.startswith(name + ".") for inner in PASSED_THROUGH)
        secrets = path[0] == "security"  # without the names above both secrets are made anew
        if changed and not passed_through and not secrets:
            yield f"{name}: null renders something else than the default"


def check_null_keys(chart):
    """What values.yaml does not list: keys of configurations and of maps for Kubernetes."""
    rendered = chart.render({"coordinator": {"config": {"worker_lease": None}},
                             "worker": {"config": {"drain_timeout": None},
                                        "nodeSelector": {"gpu": None}, "resources": None}},
                            name="demo", namespace="ml")
    found = {(d["kind"], d["metadata"]["name"]): d for _, d in documents(rendered)}
    config = yaml.safe_load(found[("ConfigMap", "demo-mindforge-coordinator")]["data"]["config.yaml"])
    assert "worker_lease" not in config, config
    worker = found[("StatefulSet", "demo-mindforge-worker")]["spec"]["template"]["spec"]
    assert not worker["containers"][0]["resources"] and "nodeSelector" not in worker, worker


def check_meaning(rendered):
    """What particular values must lead to."""
    def worker(values):
        return rendered[values][("StatefulSet", "demo-mindforge-worker")]["spec"]
    gpu = worker("gpus")["template"]["spec"]["containers"][0]["resources"]
    assert gpu["limits"]["nvidia.com/gpu"] == 4 and gpu["requests"]["cpu"] == "8", gpu
    config = yaml.safe_load(rendered["gpus"][("ConfigMap", "demo-mindforge-worker")]["data"]["config.yaml"])
    assert config["devices"] == "auto", config
    assert config["drain_timeout"] == "150s", config
    coordinator = rendered["insecure"][("StatefulSet", "demo-mindforge-coordinator")]["spec"]
    probe = coordinator["template"]["spec"]["containers"][0]["readinessProbe"]
    assert probe["grpc"] == {"port": 7070, "service": "mindforge.v1.JobService"}, probe
    assert coordinator["replicas"] == 1
    secured = rendered["defaults"][("StatefulSet", "demo-mindforge-coordinator")]["spec"]
    assert "tcpSocket" in secured["template"]["spec"]["containers"][0]["readinessProbe"]
    config = yaml.safe_load(
        rendered["defaults"][("ConfigMap", "demo-mindforge-coordinator")]["data"]["config.yaml"])
    assert config["tls"]["cert_file"] and config["token_file"] and "insecure" not in config, config
    kinds = {kind for kind, _ in rendered["defaults"]}
    assert not kinds & {"ServiceMonitor", "NetworkPolicy"}, "off by default"
    assert {"ServiceMonitor", "NetworkPolicy"} <= {kind for kind, _ in rendered["everything"]}
    assert ("Secret", "demo-mindforge-token") not in rendered["own secrets"]


def main():
    fields = config_fields()
    assert "data_dir" in fields["WorkerConfig"], fields
    problems, rendered = [], {}
    with helm_python.Chart.load(CHART) as chart:
        for title, values in GOOD.items():
            chart.validate_schema(values)
            found, rendered[title] = check_good(chart, title, values, fields)
            problems += found
        check_meaning(rendered)
        problems += check_nulls(chart)
        check_null_keys(chart)
        problems += unreachable_keys(rendered, fields)
        for values, word in BAD:
            try:
                chart.validate_schema(values)
                chart.render(values, name="demo", namespace="ml")
                problems.append(f"accepted: {values}")
            except helm_python.HelmError as error:
                if word not in str(error):
                    problems.append(f"{values}: refused without naming {word}: {error}")
    lint = helm_python.lint(CHART)
    problems += [f"lint: {message}" for message in lint_messages(lint)]
    print("\n".join(problems) or f"{len(GOOD)} sets of values render, {len(BAD)} are refused")
    return 1 if problems else 0


def lint_messages(lint):
    """Warnings and errors of helm lint; an icon is not needed."""
    messages = lint.get("messages", []) if isinstance(lint, dict) else getattr(lint, "messages", lint)
    for message in messages or []:
        text = str(message)
        if re.search(r"ERROR|WARN|'severity': [23]", text) and "icon" not in text:
            yield text


if __name__ == "__main__":
    sys.exit(main())
