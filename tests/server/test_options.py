"""What a server's options do to its answers, of one server that has them all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.cli.own_tokenizer import own_tokenizer

from .conftest import Server, running

LIMIT = 5
QUESTION: list[Any] = [{"role": "user", "content": "What can you see?"}]


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
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
    arguments = ("--config-file", str(file), "--served-model-name", "special")
    with running(folder / "log", *arguments) as started:
        yield started


@pytest.fixture
def special_client(special: Server) -> openai.OpenAI:
    return special.client()


def test_the_command_line_wins_over_the_file(special_client: openai.OpenAI) -> None:
    assert [model.id for model in special_client.models.list()] == ["special"]


def test_a_request_without_a_limit_gets_the_servers(
    special_client: openai.OpenAI,
) -> None:
    def answer(**limits: Any) -> Any:
        made = special_client.chat.completions.create(
            model="special", messages=QUESTION, **limits
        )
        return made.usage and made.usage.completion_tokens

    assert answer() == LIMIT
    assert answer(max_tokens=7) == 7
    assert answer(max_completion_tokens=6) == 6
    completion = special_client.completions.create(model="special", prompt="I can")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == LIMIT


def test_the_tokenizers_own_code_runs(special_client: openai.OpenAI) -> None:
    answer = special_client.chat.completions.create(
        model="special", messages=[{"role": "user", "content": "Hello"}]
    )
    text = answer.choices[0].message.content or ""
    assert "3" in text
    assert "e" not in text


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_the_model_computes_on_as_many_cores_as_it_may(special: Server) -> None:
    processes = psutil.Process(special.process.pid).children(recursive=True)
    workers = [
        thread
        for process in processes
        for thread in Path(f"/proc/{process.pid}/task").iterdir()
        if "Thread" in (thread / "comm").read_text()
    ]
    assert len(workers) == 1
    assert len(os.sched_getaffinity(int(workers[0].name))) == 1
