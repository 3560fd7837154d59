"""compose.yaml follows Compose's schema, and names files and options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from compose_spec import PyCompose

from mllama.launch.defaults import DEFAULT_SHUTDOWN_TIMEOUT
from tests.deploy.files import DEPLOY, options_of, unknown_options

TEXT = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}")
INTERPOLATED = VARIABLE.sub(lambda found: found[2] or "given", TEXT)
SERVICES = yaml.safe_load(INTERPOLATED)["services"]


def test_the_file_follows_the_schema() -> None:
    assert PyCompose.from_yaml(INTERPOLATED).service_names() == list(SERVICES)


def test_the_server_is_started_with_options_that_it_has(tmp_path: Path) -> None:
    command = SERVICES["mllama"]["command"]
    assert command[0] == "serve"
    assert unknown_options(command) == []
    assert options_of(DEPLOY / "serve.yaml", tmp_path)


def test_compose_waits_for_the_requests_in_progress() -> None:
    seconds = int(SERVICES["mllama"]["stop_grace_period"].rstrip("s"))
    assert seconds > DEFAULT_SHUTDOWN_TIMEOUT


def test_what_is_mounted_is_a_volume_or_exists() -> None:
    volumes = set(yaml.safe_load(TEXT)["volumes"])
    mounted = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service["volumes"]
    ]
    missing = [
        source
        for source in mounted
        if source not in volumes and not (DEPLOY / source).exists()
    ]
    assert missing == ["./models"]  # which the user makes


def test_the_example_has_every_variable() -> None:
    example = (DEPLOY / ".env.example").read_text().splitlines()
    names = {line.partition("=")[0] for line in example if line[:1] not in ("#", "")}
    assert names == {found[1] for found in VARIABLE.finditer(TEXT)}


def test_the_images_have_versions() -> None:
    images = [
        service["image"] for service in SERVICES.values() if "build" not in service
    ]
    assert [name for name in images if not re.search(r":v?\d+\.\d+\.\d+$", name)] == []


def test_prometheus_scrapes_the_port_of_the_metrics() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    targets = config["scrape_configs"][0]["static_configs"][0]["targets"]
    port = next(
        each.partition("=")[2]
        for each in SERVICES["mllama"]["command"]
        if each.startswith("--metrics-port")
    )
    assert targets == [f"mllama:{port}"]
