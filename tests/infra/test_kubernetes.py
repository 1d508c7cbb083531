"""The files for KubeRay: valid to the last field, hardened, and agreeing with each other and with this program."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.crd import problems, schema_of

FOLDER = Path(__file__).resolve().parents[2] / "infra" / "kubernetes"
FILES = {"label": "RayJob", "tokenize": "RayJob", "train": "RayJob", "cluster": "RayCluster"}
REQUIRED = {
    "Namespace": (), "ServiceAccount": (), "NetworkPolicy": ("podSelector", "policyTypes"),
    "PodMonitor": ("selector", "podMetricsEndpoints"),
}  # fmt: skip


def documents(name: str) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()) if d]


def cluster_of(name: str) -> dict[str, Any]:
    spec = documents(name)[0]["spec"]
    return spec if FILES[name] == "RayCluster" else spec["rayClusterSpec"]


def pods(name: str) -> Iterator[dict[str, Any]]:
    cluster = cluster_of(name)
    yield cluster["headGroupSpec"]["template"]["spec"]
    yield from (group["template"]["spec"] for group in cluster["workerGroupSpecs"])
    submitter = documents(name)[0]["spec"].get("submitterPodTemplate")
    if submitter:
        yield submitter["spec"]


@pytest.mark.parametrize("name", FILES)
def test_every_field_is_one_the_operator_knows(assets: Path, name: str) -> None:
    kind = FILES[name]
    path = assets / "kuberay" / f"ray.io_{kind.lower()}s.yaml"
    (document,) = documents(name)
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", kind)
    assert list(problems(document, schema_of(path, "v1"))) == []


def test_the_check_finds_what_is_wrong(assets: Path) -> None:
    schema = schema_of(assets / "kuberay" / "ray.io_rayjobs.yaml", "v1")
    for change, says in (
        (lambda d: d["spec"].update(entryPoint="x"), ".spec.entryPoint: there is no such field"),
        (lambda d: d["spec"].update(backoffLimit="5"), ".spec.backoffLimit: '5' is no integer"),
        (lambda d: d["spec"]["rayClusterSpec"].pop("headGroupSpec"), ".spec.rayClusterSpec.headGroupSpec: is missing"),
        (lambda d: d["spec"]["rayClusterSpec"]["authOptions"].update(mode="tokens"), "'tokens' is none of"),
        (lambda d: d["spec"]["submitterPodTemplate"]["spec"]["containers"][0].pop("name"), "containers[0].name: is missing"),
    ):  # fmt: skip
        document = copy.deepcopy(documents("label")[0])
        change(document)
        assert any(says in problem for problem in problems(document, schema)), says


@pytest.mark.parametrize("name", FILES)
def test_clusters_need_a_token_and_are_of_the_installed_ray(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == importlib.metadata.version("ray")
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", FILES)
def test_no_pod_runs_as_root_or_without_bounds(name: str) -> None:
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
            image = container["image"].split(":")
            assert image[-1] == f"{importlib.metadata.version('manymodal')}-{image[-1][-3:]}", "a version, never latest"
            assert not [e for e in container.get("env", ()) if "SECRET" in e["name"]], "credentials come from a role"


def test_jobs_are_commands_that_resume() -> None:
    from pipeline.cli.main import app

    known = {(command.name or command.callback.__name__) for command in app.registered_commands if command.callback}
    for name in ("label", "tokenize", "train"):
        spec = documents(name)[0]["spec"]
        words = spec["entrypoint"].replace('"', " ").replace("&&", " ").split()
        called = {words[i + 1] for i, word in enumerate(words) if word == "manymodal"}
        assert called and called <= known
        assert spec["backoffLimit"] >= 1 and spec["shutdownAfterJobFinishes"]


def test_the_support_file_denies_by_default() -> None:
    found = documents("support")
    for document in found:
        assert document["metadata"]["name"] and document["apiVersion"]
        spec = document.get("spec", {})
        assert set(REQUIRED[document["kind"]]) <= spec.keys(), document["kind"]
    by_name = {document["metadata"]["name"]: document for document in found if document["kind"] == "NetworkPolicy"}
    assert by_name["nothing-by-default"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    blocks = [to["ipBlock"] for rule in by_name["ray"]["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]
    assert blocks == [{"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}], "no way to the node's own role"
    accounts = {document["metadata"]["name"] for document in found if document["kind"] == "ServiceAccount"}
    assert {
        pod["serviceAccountName"] for name in FILES for pod in pods(name) if "serviceAccountName" in pod
    } == accounts
