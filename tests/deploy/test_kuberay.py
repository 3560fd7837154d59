"""The RayService follows KubeRay's, Kubernetes' and Ray Serve's schemas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mllama.cluster.options import ClusterOptions
from mllama.launch.defaults import DEFAULT_SHUTDOWN_TIMEOUT
from mllama.launch.options import EngineOptions
from tests.deploy.files import DEPLOY, ROOT, load_yaml

FOLDER = DEPLOY / "kuberay"
SERVICE = load_yaml(FOLDER / "rayservice.yaml")
SPEC = SERVICE["spec"]
CLUSTER = SPEC["rayClusterConfig"]
SERVE = yaml.safe_load(SPEC["serveConfigV2"])
(APPLICATION,) = SERVE["applications"]
HEAD, (WORKERS,) = CLUSTER["headGroupSpec"], CLUSTER["workerGroupSpecs"]
VERSION = "1.34"

FIELDS: dict[str, set[str]] = {
    "service": {
        "deploymentUnhealthySecondThreshold",
        "excludeHeadPodFromServeSvc",
        "rayClusterConfig",
        "rayClusterDeletionDelaySeconds",
        "serveConfigV2",
        "serveService",
        "serviceUnhealthySecondThreshold",
        "suspend",
        "upgradeStrategy",
    },
    "cluster": {
        "authOptions",
        "autoscalerOptions",
        "enableInTreeAutoscaling",
        "gcsFaultToleranceOptions",
        "headGroupSpec",
        "headServiceAnnotations",
        "managedBy",
        "rayVersion",
        "suspend",
        "upgradeStrategy",
        "workerGroupSpecs",
    },
    "head": {
        "enableIngress",
        "headService",
        "labels",
        "rayStartParams",
        "resources",
        "serviceType",
        "template",
    },
    "workers": {
        "groupName",
        "idleTimeoutSeconds",
        "labels",
        "maxReplicas",
        "minReplicas",
        "numOfHosts",
        "rayStartParams",
        "replicas",
        "resources",
        "scaleStrategy",
        "suspend",
        "template",
    },
}
"""The fields of ``ray.io/v1`` in KubeRay 1.5."""


def unknown_fields() -> Iterator[str]:
    for kind, found in (
        ("service", SPEC),
        ("cluster", CLUSTER),
        ("head", HEAD),
        ("workers", WORKERS),
    ):
        yield from (f"{kind}.{name}" for name in found.keys() - FIELDS[kind])


def test_the_service_has_fields_that_kuberay_knows() -> None:
    assert (SERVICE["apiVersion"], SERVICE["kind"]) == ("ray.io/v1", "RayService")
    assert list(unknown_fields()) == []
    assert CLUSTER["authOptions"] == {"mode": "token"}
    for group in (HEAD, WORKERS):
        values = group["rayStartParams"].values()
        assert all(isinstance(value, str) for value in values)


@pytest.mark.parametrize("group", [HEAD, WORKERS], ids=["head", "workers"])
def test_pods_follow_the_schema(group: dict[str, Any]) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "checked"},
        **group["template"],
    }
    kubernetes_validate.validate(pod, VERSION, strict=True)
    security = pod["spec"]["securityContext"]
    assert security["runAsNonRoot"]
    pod["spec"]["containers"][0]["ressources"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, VERSION, strict=True)
    del pod["spec"]["containers"][0]["ressources"]


def test_the_configuration_follows_ray_serves_schema() -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(SERVE)
    assert schema.applications[0].import_path == "mllama.cluster:build_app"


def test_the_application_takes_its_arguments() -> None:
    from mllama.cluster import build_app
    from mllama.cluster.serve_app import FrontOptions

    text = SPEC["serveConfigV2"].replace("#model_path", "model_path")
    (application,) = yaml.safe_load(text)["applications"]
    names = {
        field.name
        for kind in (ClusterOptions, EngineOptions, FrontOptions)
        for field in fields(kind)
    }
    assert application["args"].keys() <= names
    assert build_app(application["args"]) is not None


def test_a_replica_and_a_front_fit_on_a_worker() -> None:
    arguments = APPLICATION["args"]
    limits = WORKERS["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert arguments["replica_cpus"] + arguments["front_cpus"] == int(limits["cpu"])
    assert arguments["num_threads"] == arguments["replica_cpus"]
    assert (WORKERS["minReplicas"], WORKERS["maxReplicas"]) == (
        arguments["replicas"],
        arguments["max_replicas"],
    )
    assert int(HEAD["rayStartParams"]["num-cpus"]) < arguments["replica_cpus"]


def test_kubernetes_waits_for_the_requests_in_progress() -> None:
    grace = WORKERS["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > DEFAULT_SHUTDOWN_TIMEOUT


def test_versions_are_those_of_the_extra() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = CLUSTER["rayVersion"]
    assert f'"ray[serve,data]=={version}"' in project
    image = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert f"ray[serve]=={version}" in image
