"""``mllama generate`` answers with the demo model, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoTokenizer

from mllama.demo_model import MODEL_PATH
from mllama.utils.process_activity import process_activity
from tests.cli.own_tokenizer import own_tokenizer
from tests.reference.prompts import GUARD, base_model

KEYS = {
    "text",
    "token_ids",
    "finish_reason",
    "prompt_tokens",
    "image_tokens",
    "cached_tokens",
    "prompt_token_ids",
    "completion_tokens",
    "load_seconds",
    "time_to_first_token_seconds",
    "tokens_per_second",
}

pytestmark = pytest.mark.compiles

GENERATE = [sys.executable, "-m", "mllama", "generate", "--devices", "cpu"]


def generate(*args: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*GENERATE, "--max-new-tokens", "6", *args], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


def test_json_is_the_only_line_and_has_every_key(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    parts = [
        {"type": "image_url", "image_url": {"url": "red.png"}},
        {"type": "text", "text": "What is it?"},
    ]
    messages = tmp_path / "messages.json"
    messages.write_text(
        json.dumps(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": parts},
            ]
        )
    )
    done = generate("--messages", str(messages), "--format", "json")
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert set(report) == KEYS
    assert report["image_tokens"] > 0
    assert report["completion_tokens"] == len(report["token_ids"])
    assert "demo model" in done.stderr

    # The same question as options: images precede the text in any order of options.
    image = str(tmp_path / "red.png")
    same = generate(
        *("--prompt", "What is it?", "--system", "Be brief.", "--image", image),
        *("--model-path", str(MODEL_PATH)),
    )
    assert same.stdout == report["text"] + "\n"
    assert "demo model" not in same.stderr


def test_conversations_are_answered_together_and_in_order(tmp_path: Path) -> None:
    """Every option that changes an answer has its effect on each conversation."""
    questions = ("Hello", "Is there a circle?", "Name the colors.")
    file = tmp_path / "conversations.json"
    file.write_text(
        json.dumps([[{"role": "user", "content": question}] for question in questions]),
        # With a byte order mark, as some editors write it.
        encoding="utf-8-sig",
    )
    asked = ("--messages", str(file), "--max-batch-size", "2")
    greedy = generate(*asked)
    lines = greedy.stdout.splitlines()
    headings = [line for line in lines if line.startswith("==> ")]
    assert headings == [f"==> {number} <==" for number in (1, 2, 3)]
    texts = [lines[lines.index(heading) + 1] for heading in headings]

    sampled = generate(
        *(*asked, "--format", "json", "--seed", "3", "--temperature", "2"),
        *("--top-k", "1", "--model-path", str(own_tokenizer(tmp_path))),
        "--trust-remote-code",
    )
    reports = [json.loads(line) for line in sampled.stdout.splitlines()]
    # With one candidate the seed has no effect; the tokenizer's own code ran.
    assert [report["text"] for report in reports] == [
        text.replace("e", "3") for text in texts
    ]
    assert all(report["completion_tokens"] <= 6 for report in reports)
    assert any(report["finish_reason"] == "length" for report in reports)

    free = generate(
        *(*asked, "--format", "json", "--seed", "3", "--temperature", "2"),
        *("--top-k", "50"),
    )
    again = [json.loads(line)["token_ids"] for line in free.stdout.splitlines()]
    assert again != [report["token_ids"] for report in reports]


def test_several_answers_and_the_tokens_of_a_prompt(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    asked = ("--prompt", "Hello", "--image", str(tmp_path / "red.png"))
    sampled = ("--n", "2", "--seed", "3", "--temperature", "2", "--logprobs", "1")
    report = json.loads(generate(*asked, *sampled, "--format", "json").stdout)
    assert set(report) == KEYS | {"choices", "logprobs"}
    assert [len(each["logprobs"]) for each in report["choices"]] == [
        len(each["token_ids"]) for each in report["choices"]
    ]
    texts = generate(*asked, *sampled).stdout
    first, second = (each["text"] for each in report["choices"])
    assert texts == f"==> 1.1 <==\n{first}\n\n==> 1.2 <==\n{second}\n"

    ids = ",".join(map(str, report["prompt_token_ids"]))
    raw = ("--prompt-token-ids", ids, "--image", str(tmp_path / "red.png"))
    again = json.loads(generate(*raw, *sampled, "--format", "json").stdout)
    assert again["choices"] == report["choices"]


def test_base_models_take_raw_prompts_and_other_templates(tmp_path: Path) -> None:
    base = base_model(tmp_path)
    model = ("--model-path", str(base))
    refused = subprocess.run(
        [*GENERATE, *model, "--prompt", "Hi"], capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "no chat template" in refused.stderr
    assert "--chat-template FILE" in refused.stderr

    def tokens(*args: str) -> list[int]:
        made = json.loads(generate(*model, "--format", "json", *args).stdout)
        return list(made["prompt_token_ids"])

    ids = tokens("--prompt", "Hi<|eot_id|>", "--raw", "--prompt-logprobs", "0")
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer.decode(ids) == "<|begin_of_text|>Hi<|eot_id|>"
    assert len(ids) == len(tokenizer.encode("Hi")) + 1
    (tmp_path / "guard.jinja").write_text(GUARD)
    ids = tokens(
        *("--prompt", "Hi<|eot_id|>", "--prompt-logprobs", "0"),
        *("--chat-template", str(tmp_path / "guard.jinja")),
    )
    assert "user: Hi<|eot_id|>\n\nJudge" in tokenizer.decode(ids)
    assert ids.count(tokenizer.convert_tokens_to_ids("<|eot_id|>")) == 1


def test_messages_take_tools_variables_and_a_begun_answer(tmp_path: Path) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "look", "arguments": '{"at": "the sky"}'},
    }
    messages = [
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": None, "tool_calls": [call], "audio": None},
        {"role": "tool", "tool_call_id": "call_1", "content": "a blue sky"},
        {"role": "assistant", "content": "It is"},
    ]
    (tmp_path / "chat.json").write_text(json.dumps(messages))
    tool = {"type": "function", "function": {"name": "look", "description": "Looks."}}
    (tmp_path / "tools.json").write_text(json.dumps([tool]))
    template = (MODEL_PATH / "chat_template.jinja").read_text() + "{{- mood }}"
    (tmp_path / "tools.jinja").write_text(template)
    asked = (
        *("--messages", str(tmp_path / "chat.json"), "--format", "json"),
        *("--tools", str(tmp_path / "tools.json")),
        *("--chat-template", str(tmp_path / "tools.jinja")),
    )
    tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)

    def prompt(*args: str) -> str:
        report = json.loads(generate(*asked, *args).stdout)
        return str(tokenizer.decode(report["prompt_token_ids"]))

    begun = prompt("--continue-final-message")
    assert begun.endswith("It is")
    assert '"description": "Looks."' in begun
    assert '"at": "the sky"' in begun
    assert "a blue sky" in begun
    variables = '{"mood": "calm"}'
    ended = prompt("--no-add-generation-prompt", "--chat-template-kwargs", variables)
    assert ended.endswith("It is<|eot_id|>calm")

    refused = subprocess.run([*GENERATE, *asked], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "the last message is the assistant's" in refused.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("cpu_seconds", [2.0, 6.0])
def test_ctrl_c_ends_at_once_without_a_traceback(
    cpu_seconds: float, tmp_path: Path
) -> None:
    # Graphs in bfloat16 don't ship: without a cache they are compiled for a minute.
    home = {"HOME": str(tmp_path), "MLLAMA_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        [*GENERATE, "--prompt", "x", "--quantization-encoding", "bfloat16"],
        env=os.environ | home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        activity = None
        while activity is None or activity.cpu_seconds < cpu_seconds:
            assert process.poll() is None
            time.sleep(0.02)
            activity = process_activity(process.pid)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert time.monotonic() - started < 10
    assert out == ""
    assert "Traceback" not in err
