"""``mllama doctor`` reports facts without secrets; shells complete commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from mllama.cli.environment_report import as_text, environment_report
from mllama.compilation.store import CompiledStore
from tests.compilation.test_manifest import MANIFEST
from tests.compilation.test_store import KEY

MLLAMA = [sys.executable, "-m", "mllama"]


def run(*args: str, **settings: str) -> str:
    done = subprocess.run(
        [*MLLAMA, *args],
        capture_output=True,
        text=True,
        env=os.environ | settings,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_report_has_the_facts_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Earlier tests in this process may have set it.
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    store = CompiledStore(tmp_path / "compiled" / MANIFEST.key())
    store.add(KEY, lambda part: part.write_bytes(b"x" * 5000))
    store.write_manifest(MANIFEST)
    settings = {
        "MLLAMA_CACHE": str(tmp_path),
        "HF_TOKEN": "hf_secret",
        "HF_ENDPOINT": "https://me:secret@hub.example/",
        "MAX_SERVE_PORT": "8123",
    }
    report = json.loads(run("doctor", "--format", "json", **settings))
    assert report["versions"]["max"] == version("max")
    assert report["machine"]["memory"].endswith("available")
    assert str(tmp_path) in report["caches"]["mllama"]
    (compiled,) = report["compiled models"].items()
    assert compiled[0] == MANIFEST.key()
    assert "KiB, float32, cpu, MAX " in compiled[1]
    environment = report["environment"]
    assert environment["HF_TOKEN"] == "set (hidden)"
    assert environment["HF_ENDPOINT"] == "https://(hidden)@hub.example/"
    assert environment["MAX_SERVE_PORT"] == "8123"
    # The program sets this for itself; the user has not.
    assert "HF_HUB_DISABLE_TELEMETRY" not in environment
    text = run("doctor", **settings)
    assert "secret" not in text
    columns = {line.index(line.split()[-1]) for line in text.splitlines()[1:4]}
    assert len(columns) == 1


def test_a_failed_probe_is_reported_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise OSError("no such\ndevice")

    monkeypatch.setattr("max.driver.scan_available_devices", broken)
    report = environment_report({})
    assert report["machine"]["GPUs"] == "unknown (OSError: no such device)"
    assert "unknown" not in report["machine"]["cores"]
    assert "  GPUs" in as_text(report)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_valid_script(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(run("completion", shell))
    assert "_MLLAMA_COMPLETE" in script.read_text()
    if (path := shutil.which(shell)) is not None:
        subprocess.run([path, "-n", str(script)], check=True)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("mllama d", "doctor"),
        ("mllama generate --trust", "--trust-remote-code"),
        ("mllama serve --enable-pen", "--enable-penalties"),
        ("mllama serve --served", "--served-model-name"),
    ],
)
def test_commands_and_options_are_completed(words: str, found: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from mllama.cli.main import main; main()"],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "_MLLAMA_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        },
    )
    assert f"plain,{found}" in done.stdout.splitlines(), done.stderr
