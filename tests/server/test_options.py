"""The effect of a server's options, tested on one server that has them all."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.cli.own_tokenizer import own_tokenizer
from tests.images.damaged import damaged_tiff

from .conftest import Server, running

LIMIT = 5
QUESTION: list[Any] = [{"role": "user", "content": "What can you see?"}]


@pytest.fixture(scope="module")
def configured_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("options")
    file = folder / "options.yaml"
    file.write_text(
        f"""
model:
  model_path: {own_tokenizer(folder)}
  served_model_name: of-the-file
  trust_remote_code: true
max-new-tokens: {LIMIT}
num-threads: 1
"""
    )
    name = ("--served-model-name", "special")
    arguments = ("--config-file", str(file), *name, "--log-format", "json")
    with running(folder / "log", *arguments) as started:
        yield started


@pytest.fixture
def client(configured_server: Server) -> openai.OpenAI:
    return configured_server.client()


def test_the_command_line_overrides_the_config_file(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["special"]


def test_the_servers_length_limit_applies_to_requests_without_their_own(
    client: openai.OpenAI,
) -> None:
    def answer(**limits: Any) -> Any:
        made = client.chat.completions.create(
            model="special", messages=QUESTION, **limits
        )
        return made.usage and made.usage.completion_tokens

    assert answer() == LIMIT
    assert answer(max_tokens=7) == 7
    assert answer(max_completion_tokens=6) == 6
    completion = client.completions.create(model="special", prompt="I can")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == LIMIT


def test_the_tokenizers_remote_code_runs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="special", messages=[{"role": "user", "content": "Hello"}]
    )
    text = answer.choices[0].message.content or ""
    assert "3" in text
    assert "e" not in text


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_num_threads_limits_the_models_threads(configured_server: Server) -> None:
    processes = psutil.Process(configured_server.process.pid).children(recursive=True)
    workers = [
        thread
        for process in processes
        for thread in Path(f"/proc/{process.pid}/task").iterdir()
        if "Thread" in (thread / "comm").read_text()
    ]
    assert len(workers) == 1
    assert len(os.sched_getaffinity(int(workers[0].name))) == 1


def test_each_line_of_the_log_is_an_object(
    configured_server: Server, client: openai.OpenAI
) -> None:
    url = f"data:image/tiff;base64,{base64.b64encode(damaged_tiff()).decode()}"
    picture: Any = {"type": "image_url", "image_url": {"url": url}}
    with contextlib.suppress(openai.BadRequestError):
        client.chat.completions.create(
            model="special", messages=[{"role": "user", "content": [picture]}]
        )
    lines = configured_server.log.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert all({"timestamp", "level", "logger", "message"} <= set(e) for e in entries)
    # The first line of the worker, before it has this package's pipeline.
    starts = [each["message"].startswith("Worker process startup") for each in entries]
    assert any(starts)
