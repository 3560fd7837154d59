"""Targets have MAX's names, and bad ones are refused before anything is compiled.

The graphs compiled for a target are those that a start on it looks for.  `make
check-gpu`, which takes minutes, checks that they compile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.gpu_targets import CHECKED, CONFIG
from mllama.aot.cross_compile import compile_for_target
from mllama.aot.targets import CrossCompilation, find_target
from mllama.cli.compile import compile
from mllama.errors import ConfigError, MllamaError
from mllama.weights.encodings import Encoding


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("cpu", "cpu:x86-64-v3"),
        ("cpu:alderlake", "cpu:alderlake"),
        ("cpu:cascadelake", "cpu:cascadelake"),
        ("cuda", "cuda:sm_80"),
        ("cuda:sm_90", "cuda:sm_90"),
        ("hip", "hip:gfx942"),
        ("hip:gfx950", "hip:gfx950"),
    ],
)
def test_a_target_has_an_api_and_an_architecture(name: str, target: str) -> None:
    assert str(find_target(name)) == target


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "metal",
            "'metal' is not a target: use cpu:x86-64-v3 or cuda:sm_80 or hip:gfx942",
        ),
        ("", "'' is not a target"),
        ("cuda:gfx942", "'gfx942' is not a cuda target"),
        ("cuda:sm_75", "'sm_75' is not a cuda target; use one of sm_80, "),
        ("hip:sm_90", "'sm_90' is not a hip target"),
        ("cpu:znver9", "'znver9' is not a cpu target; use one of x86-64-v3, alde"),
    ],
)
def test_an_unknown_target_is_refused_with_the_known_ones(
    name: str, message: str
) -> None:
    with pytest.raises(MllamaError) as caught:
        find_target(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_devices_that_cannot_share_the_model_are_refused_at_once(
    tmp_path: Path,
) -> None:
    target = find_target("cuda:sm_90")
    with pytest.raises(ConfigError, match="3 devices can't share"):
        compile_for_target(
            CrossCompilation(CONFIG, target, Encoding("bfloat16", "gpu"), devices=3),
            tmp_path / "graphs",
        )
    assert not (tmp_path / "graphs").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--max-length", "4096"], "--max-length does nothing with --target, whose"),
        (
            ["--max-batch-size", "1"],
            "--max-batch-size does nothing with --target, whose",
        ),
        (["--max-ce-batch-size", "8"], "whose graphs fit any length and batch size"),
        (
            ["--weight-path", "w.gguf"],
            "--weight-path does nothing with --target, which",
        ),
        (
            ["--speculate", "draft"],
            "--speculate does nothing with --target, which compiles no draft model",
        ),
        (["--draft-model-path", "d"], "which compiles no draft model; leave it out"),
        (["--trust-remote-code"], "which reads only the configuration; leave it out"),
    ],
)
def test_options_that_no_graph_depends_on_are_refused(
    tmp_path: Path, args: list[str], message: str
) -> None:
    output = tmp_path / "graphs"
    command = ["--target", "cpu:x86-64-v3", "--output", str(output), *args]
    with pytest.raises(MllamaError, match=message):
        CliRunner().invoke(compile, command, catch_exceptions=False)
    assert not output.exists()


def test_the_targets_of_check_gpu_are_known() -> None:
    assert CHECKED
    for name, _ in CHECKED:
        assert str(find_target(name)) == name


_START = """
import json, sys
from pathlib import Path
import max.driver
from mllama.config import MllamaConfig
from mllama.demo_model import MODEL_PATH
from mllama.aot.compile import compile_model
from mllama.aot.target_graphs import make_devices_virtual, planned_graphs
from mllama.aot.targets import CrossCompilation, find_target
from mllama.compilation.graph_compiler import GraphCompiler, default_compile_settings
from mllama.launch.options import EngineOptions
from mllama.weights.encodings import Encoding

output, target, encoding, vision_encoding, caches = sys.argv[1:]
target = find_target(target)
kind = "cpu" if target.is_cpu else "gpu"
if not target.is_cpu:
    make_devices_virtual(target, 1)
    max.driver.scan_available_devices = lambda: [max.driver.DeviceSpec.accelerator(0)]
config = MllamaConfig.from_path(MODEL_PATH)
graphs = planned_graphs(
    CrossCompilation(
        config,
        target,
        Encoding(
            encoding,
            kind,
            int8_vision=bool(vision_encoding),
            image_cache=caches or None,
            kv_cache=caches or None,
        ),
    )
)
planned = [graph.key(default_compile_settings()).stem for graph in graphs]
for graph in graphs:
    graph.trace()
asked = []

def record(compiler, graph, **options):
    if getattr(graph, "is_required", False):
        asked.append(graph.key(compiler._compile_settings).stem)
    if len(asked) == 2:
        print(json.dumps([planned, asked]))
        sys.exit()

GraphCompiler._compile = record
compile_model(
    EngineOptions(
        devices=kind,
        quantization_encoding=encoding,
        vision_encoding=vision_encoding or None,
        image_cache_encoding=caches or "auto",
        kv_cache_encoding=caches or "auto",
    ),
    Path(output),
)
"""


@pytest.mark.parametrize(
    ("target", "encoding", "vision_encoding", "caches"),
    [
        ("cuda:sm_90", "bfloat16", "", ""),
        ("cpu:x86-64-v3", "float32", "int8", "int8"),
        ("cpu:x86-64-v3", "bfloat16", "", ""),
    ],
)
def test_a_start_looks_for_what_was_compiled(
    tmp_path: Path, target: str, encoding: str, vision_encoding: str, caches: str
) -> None:
    child = subprocess.run(
        [
            *(sys.executable, "-c", _START, str(tmp_path / "graphs")),
            *(target, encoding, vision_encoding, caches),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "MLLAMA_CACHE": str(tmp_path / "cache")},
    )
    assert child.returncode == 0, child.stderr
    planned, asked = json.loads(child.stdout)
    assert len(planned) == 2
    assert sorted(asked) == sorted(planned)
