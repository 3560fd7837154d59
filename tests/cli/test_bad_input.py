"""Bad input ends a command with one line on stderr and exit code 2, before loading."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mllama.demo_model import MODEL_PATH


def mllama(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mllama", *args],
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [
        line
        for line in done.stderr.splitlines()
        if not line.startswith("mllama: ") and " INFO: " not in line
    ]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate"], "--prompt or --messages is needed"),
        (["generate", "--promt", "x"], "--promt"),
        (["generate", "--prompt", "x", "--messages", "m.json"], "--messages contains"),
        (["generate", "--prompt", "x", "--image", "none.png"], "none.png"),
        (["generate", "--messages", "none.json"], "none.json"),
        (["generate", "--prompt", "x", "--top-p", "2"], "top_p"),
        (["generate", "--prompt", "x", "--max-new-tokens", "-2"], "max_new_tokens"),
        (["generate", "--prompt", "x", "--n", "0"], "number of answers"),
        (["generate", "--prompt", "x", "--logit-bias", "5"], "ID=BIAS"),
        (["generate", "--raw"], "--raw with --prompt"),
        (["generate", "--raw", "--prompt", "x", "--system", "y"], "takes no --system"),
        (["generate", "--prompt-token-ids", "1,x"], "separated by commas"),
        (["generate", "--raw", "--prompt", "x", "--tools", "[]"], "takes no --tools"),
        (
            ["generate", "--prompt-token-ids", "1", "--no-add-generation-prompt"],
            "takes no --add-generation-prompt",
        ),
        (
            ["generate", "--prompt", "x", "--continue-final-message"],
            "needs a last message of the role assistant",
        ),
        (["generate", "--prompt", "x", "--tools", '{"a": 1}'], "must be a list"),
        (["generate", "--prompt", "x", "--tools", "[1]"], "tools[0] must be"),
        (["generate", "--prompt", "x", "--tools", "[1"], "not JSON"),
        (["generate", "--prompt", "x", "--tools", "none.json"], "nor a file"),
        (
            ["generate", "--prompt", "x", "--chat-template-kwargs", "[]"],
            "must be an object",
        ),
        (["generate", "--prompt", "x", "--model-path", "./none"], "./none"),
        (["generate", "--prompt", "x", "--max-length", "999999999"], "999999999"),
        (["generate", "--prompt", "x", "--format", "xml"], "xml"),
        (["generate", "--prompt", "x", "--weight-path", "./none"], "./none"),
        (["talk"], "No such command"),
    ],
)
def test_generate_refuses_bad_options(args: list[str], message: str) -> None:
    assert_refused(mllama(*args), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "must be a list of messages"),
        ("[]", "at least one message"),
        (json.dumps([{"role": "robot", "content": "x"}]), "role must be"),
        (
            json.dumps([[{"role": "user", "content": "x"}], [{"role": "robot"}]]),
            "conversation 2: role must be",
        ),
        (json.dumps([[{"role": "user", "content": "x"}], []]), "conversation 2: a"),
        (
            json.dumps(
                [[{"role": "tool", "content": "x", "tool_call_id": "a"}]],
            ),
            "conversation 1: messages[0].tool_call_id must be",
        ),
    ],
)
def test_generate_refuses_malformed_messages(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "messages.json"
    path.write_text(content)
    assert_refused(mllama("generate", "--messages", str(path)), message)


def test_a_checkpoint_of_another_architecture_is_refused_by_its_name(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    )
    for command in (["generate", "--prompt", "x"], ["serve"]):
        assert_refused(
            mllama(*command, "--model-path", str(tmp_path)), "LlamaForCausalLM"
        )


@pytest.mark.parametrize(
    ("command", "option", "value", "message"),
    [
        (["generate", "--prompt", "x"], "--devices", "gpu:7", "GPU"),
        (["generate", "--prompt", "x"], "--devices", "gpu-0,gpu-1", "GPU"),
        (["generate", "--prompt", "x"], "--devices", "tpu", "tpu"),
        (["generate", "--prompt", "x"], "--num-threads", "0", "--num-threads must be"),
        (["generate", "--prompt", "x"], "--quantization-encoding", "gptq", "gptq"),
        (["serve"], "--devices", "gpu:7", "GPU"),
        (["serve"], "--devices", "cpu,gpu", "the CPU and GPUs"),
        (["serve"], "--num-threads", "9999", "--num-threads must be from 1"),
        (["serve"], "--max-new-tokens", "0", "--max-new-tokens must be -1 or"),
        (["serve"], "--max-new-tokens", "-2", "--max-new-tokens must be -1 or"),
        (["serve"], "--quantization-encoding", "gptq", "gptq"),
        (["serve"], "--max-length", "999999999", "999999999"),
        (["serve"], "--max-batch-total-tokens", "100", "max_batch_total_tokens"),
    ],
)
def test_options_beyond_the_machine_or_the_model_are_refused(
    command: list[str], option: str, value: str, message: str
) -> None:
    devices = [] if option == "--devices" else ["--devices", "cpu"]
    assert_refused(
        mllama(*command, "--model-path", str(MODEL_PATH), *devices, option, value),
        message,
    )


def test_commands_name_a_missing_ollama_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    for command in (["generate", "--prompt", "x"], ["serve"]):
        done = mllama(*command, "--model-path", "ollama:llama3.2-vision")
        assert_refused(done, f"there is no Ollama store at {tmp_path}")


def test_a_port_in_use_is_refused_before_the_model_is_loaded() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("", 0))
        port = str(taken.getsockname()[1])
        assert_refused(mllama("serve", "--port", port, "--devices", "cpu"), port)


@pytest.mark.parametrize(
    "command",
    [["generate", "--prompt", "x"], ["serve"], ["quantize", str(MODEL_PATH), "x.gguf"]],
    ids=lambda command: command[0],
)
def test_an_adapter_of_another_type_is_refused(
    command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    assert_refused(mllama(*command, "--lora-path", str(tmp_path)), "of the type 'IA3'")
    assert not Path("x.gguf").exists()


@pytest.mark.parametrize(
    "args",
    [
        ["--enable-lora"],
        ["--no-enable-lora"],
        ["--lora-paths", "adapter"],
        ["--max-lora-rank", "16"],
        ["--max-num-loras", "1"],
    ],
    ids=lambda args: args[0],
)
def test_lora_options_of_max_are_refused(args: list[str]) -> None:
    assert_refused(
        mllama("serve", "--devices", "cpu", *args), "one adapter with --lora-path"
    )
