"""The manifests follow Kubernetes' schemas and fit each other and the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from mllama.launch.defaults import DEFAULT_SHUTDOWN_TIMEOUT
from tests.deploy.files import DEPLOY, load_yaml, options_of, unknown_options
from tests.server.test_routes import ROUTES

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION = load_yaml(FOLDER / "kustomization.yaml")
MANIFESTS = sorted(
    path
    for path in FOLDER.glob("*.yaml")
    if path.name not in ("kustomization.yaml", "serve.yaml")
)
VERSION = "1.34"
"""The oldest that Kubernetes maintains and the validator knows."""

DEPLOYMENT = load_yaml(FOLDER / "deployment.yaml")
POD = DEPLOYMENT["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_follows_the_schema(path: Path) -> None:
    kubernetes_validate.validate(load_yaml(path), VERSION, strict=True)


def test_a_misspelled_field_would_be_found() -> None:
    manifest = load_yaml(FOLDER / "deployment.yaml")
    manifest["spec"]["template"]["spec"]["containers"][0]["ressources"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_the_kustomization_has_all_manifests_but_the_example() -> None:
    named = {*KUSTOMIZATION["resources"], "secret.example.yaml"}
    assert named == {path.name for path in MANIFESTS}
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    assert [FOLDER / name for name in generator["files"]] == [FOLDER / "serve.yaml"]
    assert KUSTOMIZATION["images"][0]["name"] == CONTAINER["image"]


def test_the_server_is_started_with_options_that_it_has(tmp_path: Path) -> None:
    assert CONTAINER["args"][0] == "serve"
    assert unknown_options(CONTAINER["args"]) == []
    assert options_of(FOLDER / "serve.yaml", tmp_path)


def test_probes_ask_routes_of_the_server() -> None:
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = CONTAINER[probe]["httpGet"]
        assert "GET" in ROUTES[asked["path"]]
        assert asked["port"] == "http"


def test_kubernetes_waits_for_the_requests_in_progress() -> None:
    pause = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    most = pause + DEFAULT_SHUTDOWN_TIMEOUT
    assert POD["spec"]["terminationGracePeriodSeconds"] > most


def test_selectors_find_the_pods_and_ports_have_names() -> None:
    labels = POD["metadata"]["labels"]
    service = load_yaml(FOLDER / "service.yaml")["spec"]
    policy = load_yaml(FOLDER / "networkpolicy.yaml")["spec"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["selector"].items() <= labels.items()
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert {each["targetPort"]: each["port"] for each in service["ports"]} == ports
    assert f"--metrics-port={ports['metrics']}" in CONTAINER["args"]


def test_volumes_name_what_the_other_manifests_make() -> None:
    volumes: dict[str, Any] = {each["name"]: each for each in POD["spec"]["volumes"]}
    assert {each["name"] for each in CONTAINER["volumeMounts"]} == set(volumes)
    secret = load_yaml(FOLDER / "secret.example.yaml")
    keys = volumes["keys"]["secret"]
    assert keys["secretName"] == secret["metadata"]["name"]
    assert {each["key"] for each in keys["items"]} <= set(secret["stringData"])
    claim = load_yaml(FOLDER / "persistentvolumeclaim.yaml")["metadata"]["name"]
    assert volumes["cache"]["persistentVolumeClaim"]["claimName"] == claim
    config = KUSTOMIZATION["configMapGenerator"][0]["name"]
    assert volumes["config"]["configMap"]["name"] == config
