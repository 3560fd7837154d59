"""The verdict on a GPU reaches requests, /metrics and the log of a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from mllama.runtime.verdict_record import recorded_verdict
from tests.reference.cases import data_url

from .checked_server import FAULT, RECORDS
from .conftest import Server, running


@contextmanager
def faulty(directory: Path, fault: str) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FAULT, fault)
        patch.setenv(RECORDS, str(directory))
        module = "tests.server.checked_server"
        with running(directory / "log", module=module) as started:
            yield started


def ask(server: Server, *images: Image.Image) -> str | None:
    content: Any = [
        *({"type": "image_url", "image_url": {"url": data_url(i)}} for i in images),
        {"type": "text", "text": "What is in this picture?"},
    ]
    answer = server.client().chat.completions.create(
        model="mllama-demo",
        messages=[{"role": "user", "content": content}],
        max_tokens=20,
    )
    return answer.choices[0].message.content


def gpu_metrics(server: Server) -> list[str]:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return [line for line in lines if line.startswith("mllama_gpu")]


def test_images_are_right_behind_a_sacrificial_one(
    server: Server, tmp_path: Path
) -> None:
    picture = Image.new("RGB", (100, 80), "green")
    assert gpu_metrics(server) == []
    with faulty(tmp_path, "first_place") as started:
        assert ask(started, picture) == ask(server, picture)
        assert gpu_metrics(started) == [
            'mllama_gpu_images{mode="sacrificial",stage="places"} 1.0'
        ]
        assert "images are served behind a sacrificial first" in started.log.read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLLAMA_CACHE", str(tmp_path))
        assert "behind a sacrificial first one" in recorded_verdict()


def test_refused_images_get_a_400_that_names_the_stage(tmp_path: Path) -> None:
    with faulty(tmp_path, "stray_write") as started:
        with pytest.raises(openai.BadRequestError) as refused:
            ask(started, Image.new("RGB", (100, 80), "green"))
        assert "failed at stage neighbors" in str(refused.value)
        assert "--devices cpu" in str(refused.value)
        assert ask(started)
        assert gpu_metrics(started) == [
            'mllama_gpu_images{mode="refused",stage="neighbors"} 1.0'
        ]


def test_a_check_that_cannot_run_ends_the_start_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as ended, faulty(tmp_path, "out_of_memory"):
        pass
    log = str(ended.value)
    (line,) = [line for line in log.splitlines() if "could not run" in line]
    assert "CUDA_ERROR_OUT_OF_MEMORY" in line
    assert "--devices cpu, or a smaller --image-cache-size" in line
    assert "Traceback" not in log
