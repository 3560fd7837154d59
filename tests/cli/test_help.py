"""Help is fast and lists the options of the commands."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from mllama import __version__

HEAVY = ("max.graph", "max.engine", "transformers", "torch", "numpy")


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["generate", "--help"],
        ["chat", "--help"],
        ["demo", "--help"],
        ["--version"],
        ["completion", "bash"],
    ],
)
def test_help_imports_neither_max_nor_transformers(args: list[str]) -> None:
    code = f"""
import sys
from mllama.cli.main import main
try:
    main()
finally:
    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "mllama" in done.stdout
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_generate_has_these_options() -> None:
    from mllama.cli.generate import generate

    names = {option for param in generate.params for option in param.opts}
    assert names == {
        "--model-path",
        "--model",
        "--weight-path",
        "--lora-path",
        "--chat-template",
        "--tool-parser",
        "--prompt",
        "--image",
        "--system",
        "--raw",
        "--prompt-token-ids",
        "--messages",
        "--tools",
        "--tool-choice",
        "--parallel-tool-calls",
        "--chat-template-kwargs",
        "--add-generation-prompt",
        "--continue-final-message",
        "--max-new-tokens",
        "--min-tokens",
        "--n",
        "--top-k",
        "--temperature",
        "--top-p",
        "--min-p",
        "--presence-penalty",
        "--frequency-penalty",
        "--repetition-penalty",
        "--logit-bias",
        "--seed",
        "--stop",
        "--stop-token-id",
        "--ignore-eos",
        "--logprobs",
        "--prompt-logprobs",
        "--response-format",
        "--guided-json",
        "--guided-regex",
        "--guided-choice",
        "--guided-grammar",
        "--max-length",
        "--max-batch-size",
        "--max-ce-batch-size",
        "--enable-overlap-scheduler",
        "--device-graph-capture",
        "--greedy-on-gpu",
        "--speculate",
        "--draft-model-path",
        "--draft-model-revision",
        "--num-threads",
        "--trust-remote-code",
        "--serialized-model-path",
        "--save-to-serialized-model-path",
        "--devices",
        "--quantization-encoding",
        "--vision-encoding",
        "--kv-cache-encoding",
        "--image-cache-encoding",
        "--image-cache-size",
        "--max-images-per-request",
        "--huggingface-model-revision",
        "--force-download",
        "--format",
    }


def test_serve_lists_its_own_options_before_those_of_max() -> None:
    import click

    from mllama.cli.serve import serve

    text = serve.get_help(click.Context(serve, info_name="serve"))
    own, others = text.split("Other MAX Serve options:")
    for option in ("--model-path", "--devices", "--force-download", "--port"):
        assert own.count(f"  {option} ") + own.count(f"  {option}, ") == 1
        assert f"  {option} " not in others
    headings = [line for line in own.splitlines() if line and line[0] != " "]
    assert headings[1:] == [
        "Model:",
        "Compute and limits:",
        "Images:",
        "Answer:",
        "Server:",
        "Access:",
        "Batches:",
    ]
    assert "--enable-penalties" in others
    assert "--lora-path DIR" in own
    assert "--enable-lora" not in text  # Refused, so not listed.


def test_version_names_that_of_max() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mllama", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith(f"mllama {__version__} (MAX {version('max')})")
