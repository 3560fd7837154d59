"""``mllama doctor`` reports facts without secrets; shells complete commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from mllama.cli.doctor import doctor
from mllama.cli.environment_report import as_text, environment_report
from mllama.compilation.store import CompiledStore
from mllama.image_cache.verdict import CheckStage, ImageMode, ImageVerdict
from mllama.runtime.verdict_record import record_verdict
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


def test_the_last_self_check_of_a_gpu_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "new"))
    assert environment_report({})["machine"]["GPU self-check"] == "none yet"
    verdict = ImageVerdict(ImageMode.REFUSED, CheckStage.FINITE, 4)
    device = SimpleNamespace(label="gpu", id=1, model_name="H200")
    record_verdict(verdict, [device], "models/11b")
    line = environment_report({})["machine"]["GPU self-check"]
    assert line.startswith(
        "images are refused: keys or values are not finite (4 tiles) "
        "(gpu:1 H200, models/11b, 2"
    )
    (tmp_path / "new" / "gpu-self-check.json").write_text("[]")
    line = environment_report({})["machine"]["GPU self-check"]
    assert line.startswith("unknown (ValueError: ")
    assert line.endswith("is damaged; it can be removed)")


def test_a_cache_that_cannot_be_written_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "file"))
    record_verdict(ImageVerdict(), [], "model")


def test_a_wrong_device_is_reported_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mllama.engine.device_check as check

    asked = []

    def checked(devices: str, path: str | None) -> check.DeviceReport:
        asked.append((devices, path))
        return check.DeviceReport("images are refused", {"text": 0.5})

    monkeypatch.setattr(check, "check_device", checked)
    arguments = ["--devices", "gpu:1", "--serialized-model-path", "compiled"]
    done = CliRunner().invoke(doctor, [*arguments, "--format", "json"])
    assert done.exit_code == 1
    assert asked == [("gpu:1", "compiled")]
    facts = json.loads(done.output)["demo model"]
    assert facts["self-check"] == "images are refused"
    assert facts["text"].startswith("WRONG: 0.5 of the spread")


def test_a_compiled_model_without_devices_is_refused() -> None:
    done = CliRunner().invoke(doctor, ["--serialized-model-path", "compiled"])
    assert done.exit_code == 2
    assert "needs --devices" in done.output


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
