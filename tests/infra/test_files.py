"""Container files, compose file, EC2 launcher, policies, monitoring: each against the strictest check that runs here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
INFRA = REPO / "infra"
YAML_RULES = (
    "{extends: default, rules: {line-length: {max: 140}, document-start: disable, braces: {max-spaces-inside: 0}, "
    "comments: {min-spaces-from-content: 1}, truthy: {check-keys: true}}}"
)
# What the S3 client is asked for, and the right each needs.
RIGHTS = {
    "get_object": "s3:GetObject", "head_object": "s3:GetObject", "put_object": "s3:PutObject", "delete_object": "s3:DeleteObject",
    "create_multipart_upload": "s3:PutObject", "upload_part": "s3:PutObject", "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload", "list_objects_v2": "s3:ListBucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
}  # fmt: skip


def tool(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a checker that came with the development dependencies."""
    program = Path(sys.executable).with_name(name)
    assert program.exists(), f"{name} is missing: pip install -c constraints.txt -e '.[dev]'"
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)


def load(name: str) -> Any:
    return yaml.safe_load((INFRA / name).read_text())


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_container_files(kind: str) -> None:
    path = INFRA / "container" / f"{kind}.Dockerfile"
    said = tool("hadolint", path)
    assert said.returncode == 0, said.stdout
    text = path.read_text()
    assert re.search(r"^USER 1000$", text, re.M) and "constraints.txt" in text
    bases = re.findall(r"^FROM (\S+)", text, re.M)
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in bases), "pinned to the patch"
    pins = dict(line.split("==") for line in (REPO / "constraints.txt").read_text().splitlines() if "==" in line)
    assert f"torch=={pins['torch']}" in text, "the torch of constraints.txt"
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", text, re.M)
    assert all((REPO / name).exists() for line in copied for name in line.split())
    ignored = (REPO / ".dockerignore").read_text().splitlines()
    assert all(f"!{name}" in ignored for line in copied for name in line.split()), "what is copied is sent"


def test_yaml_is_tidy() -> None:
    said = tool("yamllint", "--strict", "-d", YAML_RULES, INFRA)
    assert said.returncode == 0, said.stdout


def test_compose_file() -> None:
    path = INFRA / "compose" / "compose.yaml"
    said = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    assert said.returncode == 0, said.stdout
    services = load("compose/compose.yaml")["services"]
    assert set(services) == {"s3", "bucket", "ray-head", "ray-worker", "prometheus", "grafana"}
    wanted = set(re.findall(r"\$\{(\w+)", path.read_text()))
    assert wanted == set(re.findall(r"^(\w+)=$", (INFRA / "compose" / "example.env").read_text(), re.M)), (
        "and all are empty"
    )
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert re.search(r":v?\d+\.\d+", service["image"]), name
        for volume in service.get("volumes", ()):
            assert (path.parent / volume.split(":")[0]).resolve().is_file(), volume


def test_launcher_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load("aws/cluster.yaml")
    validate_config(prepare_config(config))
    bad = load("aws/cluster.yaml") | {"head_node": "x", "max_worker": 3}
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(bad))
    for name, kind in config["available_node_types"].items():
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required", name
        assert name == "head" or kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert {"--env=RAY_AUTH_MODE=token", "--env=RAY_ADDRESS=auto"} <= set(config["docker"]["run_options"])


def test_commands_wait_for_the_nodes_of_a_cluster_that_grows() -> None:
    files = [INFRA / "README.md", *(INFRA / "aws").glob("*.yaml"), *(INFRA / "kubernetes").glob("*.yaml")]
    started = [
        line
        for path in files
        for line in path.read_text().splitlines()
        if re.search("ray exec|submit .*--|entrypoint", line)
    ]
    found = [line for line in started if re.search("manymodal (label|tokenize)", line)]
    assert len(found) == 4 and all("limits.node_seconds=" in line for line in found)


def test_the_policy_grants_what_the_client_calls_and_nothing_else() -> None:
    sources = [*(REPO / "pipeline" / "storage").glob("s3*.py"), REPO / "pipeline" / "ingest" / "s3.py"]
    text = "\n".join(path.read_text() for path in sources)
    called = set(re.findall(r"client\.([a-z]+_[a-z0-9_]+)\(", text)) - {"get_paginator"}
    called |= set(re.findall(r'get_paginator\("(\w+)"\)', text))
    assert called == set(RIGHTS)
    policy = json.loads((INFRA / "aws" / "iam-policy.json").read_text())
    granted = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert granted == set(RIGHTS.values())
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow" and statement["Resource"].startswith("arn:aws:s3:::")
        # With a condition on ListBucket, S3 answers 403 instead of 404 to a key that is absent, and nothing could begin.
        assert "Condition" not in statement


def test_bucket_rules() -> None:
    policy = json.loads((INFRA / "aws" / "bucket-policy.json").read_text())
    assert {s["Effect"] for s in policy["Statement"]} == {"Deny"}
    rules = json.loads((INFRA / "aws" / "lifecycle.json").read_text())["Rules"]
    assert all(rule["Status"] == "Enabled" and rule["Filter"]["Prefix"].startswith("PREFIX/") for rule in rules)
    assert [r["AbortIncompleteMultipartUpload"] for r in rules if "AbortIncompleteMultipartUpload" in r]
    expired = [rule["Filter"]["Prefix"] for rule in rules if "Expiration" in rule]
    assert expired == ["PREFIX/_tmp/"], "nothing a commit names ever expires"
