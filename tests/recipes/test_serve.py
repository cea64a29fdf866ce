"""recipes/serve against the server: arguments, routes, ports, extras and metrics are those that exist."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import yaml
from fastapi import FastAPI
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from s2s.cli.main import app as commands
from tests.gateway.serving import Served, serving

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes" / "serve"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
API_VERSIONS = {
    "Deployment": "apps/v1",
    "Service": "v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "PodDisruptionBudget": "policy/v1",
}


# The Dockerfile.


def instructions() -> list[tuple[str, str]]:
    """What a Dockerfile says, without comments, lines joined."""
    lines = [line for line in text("Dockerfile").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    parted = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in parted]


def text(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def of(word: str) -> list[str]:
    return [rest for each, rest in instructions() if each == word]


def serve_options(arguments: list[str]) -> dict[str, Any]:
    """The options as `s2s serve` understands them; raises click's UsageError for what it does not."""
    s2s = typer.main.get_command(commands)
    assert isinstance(s2s, typer.core.TyperGroup)
    return s2s.commands["serve"].make_context("serve", list(arguments)).params


def test_the_image_serves() -> None:
    (entrypoint,), (command,) = of("ENTRYPOINT"), of("CMD")
    words = json.loads(entrypoint) + json.loads(command)
    assert words[:4] == ["tini", "--", "s2s", "serve"], "no shell that keeps signals to itself"
    options = serve_options(words[4:])
    assert options["host"] == "0.0.0.0" and options["token"] is None and not options["insecure"]
    assert options["token_file"].is_absolute()
    assert of("EXPOSE") == [str(options["port"])]
    assert of("STOPSIGNAL") == ["SIGTERM"]


def test_the_image_is_slim_and_its_user_is_not_root() -> None:
    bases = {rest.split()[0] for rest in of("FROM")}
    (found,) = {re.fullmatch(r"python:(3\.\d+)-slim", base) for base in bases}
    assert found is not None and SpecifierSet(PROJECT["requires-python"]).contains(found[1])
    words = [word for word, _ in instructions()]
    assert words.index("USER") > max(number for number, word in enumerate(words) if word in ("RUN", "COPY"))
    (user,) = of("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number: a cluster cannot tell that a name is not root"
    assert f"--uid {user.partition(':')[0]} " in text("Dockerfile")


def test_the_health_check_asks_a_route_that_exists(served: Served) -> None:
    (check,) = of("HEALTHCHECK")
    command = json.loads(check.partition(" CMD ")[2])
    assert command[:2] == ["python", "-c"]
    port = of("EXPOSE")[0]
    code = command[2].replace(f"127.0.0.1:{port}/livez", f"127.0.0.1:{served.port}/livez")
    assert str(served.port) in code
    exec(compile(code, "HEALTHCHECK", "exec"), {})  # raises where the answer is no success


def test_what_is_installed_is_what_the_project_wants() -> None:
    wanted = {Requirement(each).name: Requirement(each).specifier for each in PROJECT["dependencies"]}
    extras, pinned = set(), set()
    for run in of("RUN"):
        for command in run.split("&&"):
            words = shlex.split(command)
            if words[:2] != ["pip", "install"]:
                continue
            for word in words[2:]:
                if found := re.fullmatch(r"\.\[([\w,]+)\]", word):
                    extras |= set(found[1].split(","))
                elif word[0] != "-" and not word.startswith("https://"):
                    requirement = Requirement(word)
                    assert requirement.specifier == wanted[requirement.name], word
                    pinned.add(requirement.name)
            if pinned and not extras:
                assert words[-2:] == ["--index-url", "https://download.pytorch.org/whl/cpu"], "or CUDA comes along"
    assert extras == {"serve"} and extras <= set(PROJECT["optional-dependencies"])
    assert pinned == {"torch", "torchaudio"}


def test_the_build_reads_what_exists_and_nothing_else() -> None:
    copied = {word for rest in of("COPY") if "--from" not in rest for word in rest.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    ignored = [line for line in text("Dockerfile.dockerignore").splitlines() if line and line[0] != "#"]
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line[0] == "!"} == copied
    assert {PROJECT["readme"], *PROJECT["license-files"], "conf", "s2s", "pyproject.toml"} == copied


def test_no_file_holds_a_secret() -> None:
    for path in FOLDER.iterdir():
        if path.suffix == ".png":
            continue
        written = path.read_text("utf-8")
        assert not re.search(r"/home/|/root/|/Users/|kind: Secret", written), path.name
        assert not re.search(r"(?i)(token|password|credentials)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9+_-]{16,}", written)


# The cluster.


@pytest.fixture(scope="module")
def cluster() -> dict[str, dict[str, Any]]:
    found = {each["kind"]: each for each in yaml.safe_load_all(text("kubernetes.yaml"))}
    assert {kind: each["apiVersion"] for kind, each in found.items()} == API_VERSIONS
    return found


def pod_of(cluster: dict[str, dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = cluster["Deployment"]["spec"]["template"]["spec"]
    return pod


def routes(app: FastAPI) -> set[str]:
    return {str(getattr(route, "path", "")) for route in app.routes}


def test_the_container_serves(cluster: dict[str, dict[str, Any]]) -> None:
    pod = pod_of(cluster)
    (container,) = pod["containers"]
    options = serve_options(container["args"])
    (port,) = container["ports"]
    assert options["port"] == port["containerPort"] and options["host"] == "0.0.0.0"
    assert options["drain"] < pod["terminationGracePeriodSeconds"], "or the kubelet cuts calls"
    assert str(options["threads"]) == container["resources"]["requests"]["cpu"]
    assert "cpu" not in container["resources"]["limits"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "token"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "token"]
    assert options["token_file"] == Path(mount["mountPath"], "token") and mount["readOnly"]
    assert options["token"] is None and not options["insecure"]
    assert f"create secret generic {volume['secret']['secretName']} --from-file=token" in text("README.md")
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in of("USER")
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}


def test_the_probes_ask_routes_that_exist(cluster: dict[str, dict[str, Any]], served: Served) -> None:
    (container,) = pod_of(cluster)["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {container["ports"][0]["name"]}
    for probe in probes.values():
        # The kubelet asks by the pod's address, without a token.
        assert httpx.get(served.http + probe["path"], headers={"Host": "10.1.2.3:8080"}).status_code == 200


def test_the_objects_mean_each_other(cluster: dict[str, dict[str, Any]]) -> None:
    deployment, service = cluster["Deployment"], cluster["Service"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        cluster["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    (container,) = pod_of(cluster)["containers"]
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == container["ports"][0]["name"]
    scaled = cluster["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert scaled == {key: deployment[key] for key in ("apiVersion", "kind")} | {"name": deployment["metadata"]["name"]}
    assert "replicas" not in deployment["spec"], "the autoscaler's, or each apply would set them back"


# Prometheus and Grafana.


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server that has taken a call and refused one: some metrics have no sample before."""

    async def call(url: str) -> None:
        async with connect(f"{url}/v1/realtime") as taken:
            await taken.recv()
            with pytest.raises(InvalidStatus):
                await connect(f"{url}/v1/realtime")

    with serving(max_sessions=1) as server:
        asyncio.run(call(server.ws))
        yield server


@pytest.fixture(scope="module")
def exported(served: Served) -> dict[str, set[str]]:
    """Names of samples -> their labels."""
    names: dict[str, set[str]] = {}
    answer = httpx.get(f"{served.http}/metrics")
    for family in text_string_to_metric_families(answer.text):
        # A counter with labels has no sample before something was counted, but its type stands there already.
        if family.type == "counter" and not family.samples:
            names[f"{family.name}_total"] = {"reason"}
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


def queries() -> list[str]:
    """All PromQL of the dashboard."""
    dashboard = json.loads(text("grafana.json"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return asked + [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]


def test_the_dashboard_asks_for_what_is_exported(exported: dict[str, set[str]]) -> None:
    scraped = {"job", "instance"}  # Prometheus adds these
    for query in queries():
        names = set(re.findall(r"\bs2s_\w+", query))
        assert names and names <= set(exported), query
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query))
        used |= {name for found in re.findall(r"\bby \(([^)]*)\)", query) for name in re.split(r",\s*", found)}
        for name in names:
            assert used <= exported[name] | scraped, query
        assert query.count("(") == query.count(")") and query.count("{") == query.count("}")
        counted = re.findall(r"\bs2s_\w+_(?:total|bucket)\b", query)
        assert len(counted) == len(re.findall(r"rate\(s2s_", query)), f"counters are shown by their rate: {query}"
        assert ("_bucket" in query) == ("histogram_quantile" in query)


def test_the_dashboard_shows_what_matters() -> None:
    shown = {name for query in queries() for name in re.findall(r"\bs2s_\w+", query)}
    assert shown >= {
        "s2s_sessions",
        "s2s_sessions_free",
        "s2s_step_seconds_bucket",
        "s2s_deadline_misses_total",
        "s2s_first_audio_seconds_bucket",
        "s2s_stop_seconds_bucket",
        "s2s_buffered_seconds",
        "s2s_calls_refused_total",
        "s2s_underruns_total",
    }


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(text("grafana.json"))
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) - {"__rate_interval", "__all"}
    assert used == variables
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or (panel["description"] and panel["targets"])


def test_prometheus_scrapes_the_server(cluster: dict[str, dict[str, Any]], served: Served) -> None:
    known, pods = yaml.safe_load(text("prometheus.yaml"))["scrape_configs"]
    (container,) = pod_of(cluster)["containers"]
    port = str(container["ports"][0]["containerPort"])
    assert known["metrics_path"] in routes(served.server.config.app)
    assert known["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]
    annotations = cluster["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == port and annotations["prometheus.io/path"] == known["metrics_path"]
    for job in (known, pods):
        assert job["authorization"]["type"] == "Bearer" and "credentials" not in job["authorization"]
    # What its rules read of a pod is what the manifests write.
    meta = {f"pod_annotation_{_label(name)}": value for name, value in annotations.items()}
    labels = cluster["Deployment"]["spec"]["template"]["metadata"]["labels"]
    meta |= {f"pod_label_{_label(name)}": value for name, value in labels.items()}
    meta |= {"pod_name": "s2s-0"}
    values = {f"__meta_kubernetes_{name}": value for name, value in meta.items()} | {"__address__": f"10.0.0.1:{port}"}
    for rule in pods["relabel_configs"]:
        source = ";".join(values[name] for name in rule["source_labels"])
        found = re.fullmatch(rule.get("regex", "(.*)"), source)
        assert found is not None, rule
        if rule.get("action") != "keep":
            written = rule.get("replacement", "$1")
            values[rule["target_label"]] = re.sub(r"\$(\d)", lambda m, f=found: f[int(m[1])], written)
    assert (values["__address__"], values["__metrics_path__"]) == (f"10.0.0.1:{port}", "/metrics")
    assert values["instance"] == "s2s-0"


def _label(name: str) -> str:
    """As Prometheus spells labels and annotations of Kubernetes."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


# The README.


def test_the_commands_of_the_readme_exist() -> None:
    written = text("README.md")
    for name in re.findall(r"^\| `([^|]*)` \|", written, re.MULTILINE):
        assert all((FOLDER / each.strip("`")).is_file() for each in re.split(r"`?, `?", name)), name
    joined = written.replace("\\\n", " ")
    (served,) = re.findall(r"s2s serve (--host[^']*)'", joined)
    assert serve_options(shlex.split(served))["token_file"] == Path("/tmp/token")
    (mounted,) = re.findall(r"-v \"\$PWD/token:([^:]+):ro\"", joined)
    assert mounted in of("CMD")[0]
    for option in re.findall(r"`(--[a-z-]+)", written):
        assert option[2:].replace("-", "_") in serve_options([])
    for path in re.findall(r"`(/[a-z]+)`", written):
        assert path in {"/livez", "/readyz", "/metrics"}
    for name in re.findall(r"\bs2s_\w+", written):
        assert name in {"s2s_ready", "s2s_calls_refused_total"}
