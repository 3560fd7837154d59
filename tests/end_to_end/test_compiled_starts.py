"""Starts from a compiled model, and second starts, compile nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mllama.demo_model import MODEL_PATH
from tests.reference.llama import write_llama

pytestmark = pytest.mark.compiles

QUESTION = ["--prompt", "Hello", "--max-new-tokens", "6", "--format", "json"]
OPTIONS = ["--devices", "cpu"]


def mllama(
    *args: str, home: Path | None = None, cache: Path
) -> subprocess.CompletedProcess[str]:
    """Runs a command with a cache of its own; MAX's cache is in ``home``, if given."""
    environment = os.environ | {"MLLAMA_CACHE": str(cache)}
    if home is not None:
        environment |= {"HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "mllama", *args],
        capture_output=True,
        text=True,
        env=environment,
    )


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["token_ids"]


def compiled_in(home: Path) -> list[Path]:
    """Returns the files that MAX has compiled into its own cache."""
    return [path for path in home.rglob("*") if path.suffix in (".mef", ".max")] + list(
        home.glob(".cache/modular/.max_cache/*")
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, compiled by the command."""
    root = tmp_path_factory.mktemp("compiled")
    done = mllama(
        "compile", *OPTIONS, "--output", str(root / "saved"), cache=root / "cache"
    )
    assert done.returncode == 0, done.stderr
    return root / "saved"


@pytest.fixture(scope="module")
def expected(saved: Path) -> Any:
    """The token ids of a start that finds its graphs in the cache."""
    cache = saved.parent / "cache"
    return answer(mllama("generate", *OPTIONS, *QUESTION, cache=cache))


def test_a_compiled_model_for_a_cpu_has_two_graphs_and_no_sampler(saved: Path) -> None:
    names = [file.name.split("-")[0] for file in saved.glob("*.mef")]
    assert sorted(names) == ["mllama_image_encoder", "mllama_text_decoder"]


@pytest.mark.parametrize("options", [[], ["--max-length", "512"]])
def test_generate_starts_from_a_compiled_model_without_compiling(
    saved: Path, expected: Any, tmp_path: Path, options: list[str]
) -> None:
    home = tmp_path / "home"
    done = mllama(
        "generate",
        *OPTIONS,
        *options,
        *QUESTION,
        "--serialized-model-path",
        str(saved),
        home=home,
        cache=tmp_path / "cache",
    )
    assert answer(done) == expected
    assert compiled_in(home) == []
    assert "compiling" not in done.stderr


def test_a_compiled_model_has_the_graph_of_its_draft_model(
    saved: Path, expected: Any, tmp_path: Path
) -> None:
    folder = write_llama(tmp_path / "draft", seed=1)
    drafting = [*OPTIONS, "--speculate", "draft", "--draft-model-path", str(folder)]
    output = ["--output", str(tmp_path / "compiled")]
    done = mllama("compile", *drafting, *output, cache=saved.parent / "cache")
    assert done.returncode == 0, done.stderr
    names = [file.name.split("-")[0] for file in (tmp_path / "compiled").glob("*.mef")]
    assert sorted(names) == [
        "mllama_draft_decoder",
        "mllama_image_encoder",
        "mllama_text_decoder",
    ]
    home = tmp_path / "home"
    done = mllama(
        "generate",
        *drafting,
        *QUESTION,
        "--serialized-model-path",
        str(tmp_path / "compiled"),
        home=home,
        cache=tmp_path / "cache",
    )
    assert answer(done) == expected
    assert compiled_in(home) == []
    assert "compiling" not in done.stderr


def test_the_second_start_of_a_command_compiles_nothing(
    saved: Path, expected: Any, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    done = mllama(
        "generate", *OPTIONS, *QUESTION, home=home, cache=saved.parent / "cache"
    )
    assert answer(done) == expected
    assert compiled_in(home) == []


def test_generate_saves_its_compiled_model_and_goes_on(
    saved: Path, expected: Any, tmp_path: Path
) -> None:
    target = tmp_path / "again"
    done = mllama(
        "generate",
        *OPTIONS,
        *QUESTION,
        "--save-to-serialized-model-path",
        str(target),
        cache=saved.parent / "cache",
    )
    assert answer(done) == expected
    assert {file.name for file in target.iterdir()} == {
        file.name for file in saved.iterdir()
    }


def test_fine_tunes_share_a_compiled_model(saved: Path, tmp_path: Path) -> None:
    fine_tune = tmp_path / "fine-tune"
    shutil.copytree(MODEL_PATH, fine_tune)
    config = json.loads((fine_tune / "config.json").read_text())
    config["text_config"]["pad_token_id"] = 1
    (fine_tune / "config.json").write_text(json.dumps(config))
    home = tmp_path / "home"
    done = mllama(
        "generate",
        *OPTIONS,
        *QUESTION,
        "--model-path",
        str(fine_tune),
        "--serialized-model-path",
        str(saved),
        home=home,
        cache=tmp_path / "cache",
    )
    assert answer(done)
    assert compiled_in(home) == []


@pytest.mark.parametrize("command", ["generate", "serve"])
@pytest.mark.parametrize(
    ("other", "named"),
    [
        (["--vision-encoding", "int8"], "encoding float32"),
        (["--quantization-encoding", "bfloat16"], "encoding float32"),
    ],
)
def test_a_compiled_model_for_other_options_is_refused(
    saved: Path, tmp_path: Path, command: str, other: list[str], named: str
) -> None:
    question = ["--prompt", "Hello"] if command == "generate" else []
    done = mllama(
        command,
        *OPTIONS,
        *question,
        "--serialized-model-path",
        str(saved),
        *other,
        cache=tmp_path,
    )
    assert done.returncode == 2
    assert named in done.stderr.splitlines()[-1]


def test_a_damaged_graph_in_the_cache_is_not_used(
    saved: Path, expected: Any, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(saved.parent / "cache", cache)
    for file in cache.rglob("mllama_text_decoder*"):
        file.write_bytes(file.read_bytes()[:1000])
    assert answer(mllama("generate", *OPTIONS, *QUESTION, cache=cache)) == expected


def test_a_cache_that_cannot_be_written_does_not_stop_the_start(
    expected: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = mllama("generate", *OPTIONS, *QUESTION, cache=tmp_path / "file" / "below")
    assert answer(done) == expected
