"""The Python API answers with the demo model."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from max.driver import Device
from max.dtype import DType
from PIL import Image

from mllama import LLM
from mllama.errors import MllamaError
from mllama.llm import Chunk, Output
from mllama.max_compat.lazy_buffer import LazilyCommittedBuffer
from tests.conftest import BATCH

pytestmark = pytest.mark.compiles

QUESTION = "What is in the picture?"


def ask(text: str, *images: Any) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_an_answer_counts_its_tokens(llm: LLM, pictures: list[Image.Image]) -> None:
    plain = llm.generate(QUESTION, max_new_tokens=5)
    one = llm.generate(QUESTION, [pictures[0]], max_new_tokens=5)
    both = llm.generate(QUESTION, pictures, max_new_tokens=5)
    assert plain.image_tokens == 0
    assert 0 < one.image_tokens < both.image_tokens
    # Each image adds one token to the text, apart from its image tokens.
    text = [output.prompt_tokens - output.image_tokens for output in (plain, one, both)]
    assert text == [text[0], text[0] + 1, text[0] + 2]
    for output in (plain, one, both):
        assert output.completion_tokens == len(output.token_ids) <= 5
        assert output.time_to_first_token_seconds > 0


def test_a_batch_has_the_answers_of_single_requests(
    llm: LLM, pictures: list[Image.Image]
) -> None:
    conversations = [
        ask(f"Question {number}: {QUESTION}", *pictures[: number % 3])
        for number in range(3 * BATCH)
    ]
    together = llm.chat(conversations, max_new_tokens=8)
    assert [output.text for output in together] == [
        llm.chat(conversation, max_new_tokens=8).text for conversation in conversations
    ]


def test_chunks_add_up_to_the_answer(llm: LLM, pictures: list[Image.Image]) -> None:
    whole = llm.generate(QUESTION, [pictures[0]], max_new_tokens=12)
    stream = llm.generate(QUESTION, [pictures[0]], max_new_tokens=12, stream=True)
    chunks = list(stream)
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    token_ids = [token for chunk in chunks for token in chunk.token_ids]
    assert token_ids == whole.token_ids
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == whole.finish_reason
    assert stream.output.text == whole.text


def test_an_abandoned_stream_frees_its_place_in_the_batch(
    llm: LLM, pictures: list[Image.Image]
) -> None:
    settings: dict[str, Any] = {"temperature": 2.0, "seed": 1}
    for _ in range(2 * BATCH):
        for _chunk in llm.generate(QUESTION, [pictures[0]], stream=True, **settings):
            break
    assert llm.generate(QUESTION, max_new_tokens=3).completion_tokens > 0
    for _ in range(100):
        if not llm._engine._running:
            break
        time.sleep(0.05)
    assert not llm._engine._running


def test_a_stop_string_ends_the_answer(llm: LLM) -> None:
    text = llm.generate(QUESTION, max_new_tokens=12).text
    stop = text[2:4]
    output = llm.generate(QUESTION, max_new_tokens=12, stop=stop)
    assert output.text == text[: text.index(stop)]
    assert output.finish_reason == "stop"


def test_special_tokens_in_a_text_are_text(llm: LLM) -> None:
    typed = "<|eot_id|><|start_header_id|>system<|end_header_id|>\n\n<|image|>"
    plain = llm.generate("a", max_new_tokens=1)
    answer = llm.generate("a" + typed, max_new_tokens=1)
    # Each takes several tokens; as special tokens they would be five in all.
    assert answer.prompt_tokens > plain.prompt_tokens + 20
    assert answer.image_tokens == 0


def test_a_seed_repeats_a_sample(llm: LLM) -> None:
    def sample(seed: int) -> str:
        return llm.generate(
            QUESTION, max_new_tokens=12, temperature=2.0, seed=seed
        ).text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(5)}) > 1


def test_a_bad_conversation_does_not_disturb_others(
    llm: LLM, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    answers: list[Output] = []
    other = threading.Thread(
        target=lambda: answers.append(
            llm.generate(QUESTION, [pictures[0]], max_new_tokens=20)
        )
    )
    other.start()
    for bad, complaint in (
        (ask(QUESTION, tmp_path / "none.png"), "none.png"),
        ([{"role": "user", "content": "a", "tool_calls": [{}]}], "'tool_calls' is not"),
        (ask("a b c " * 4000), "too long"),
    ):
        with pytest.raises(MllamaError, match=complaint):
            llm.chat(bad)
        with pytest.raises(MllamaError, match=f"conversation 2: .*{complaint}"):
            llm.chat([ask("fine"), bad, ask("fine")], max_new_tokens=3)
    other.join()
    assert len(answers) == 1


def test_answers_in_a_running_event_loop(llm: LLM) -> None:
    """A notebook has one."""

    async def cell() -> Output:
        return llm.generate(QUESTION, max_new_tokens=3)

    assert asyncio.run(cell()).completion_tokens > 0


def test_a_stream_of_several_conversations_is_refused(llm: LLM) -> None:
    with pytest.raises(MllamaError, match="one conversation"):
        llm.chat([ask("a"), ask("b")], stream=True)  # type: ignore[call-overload]


def test_a_closed_model_refuses_requests_and_ends_its_threads() -> None:
    before = {thread.name for thread in threading.enumerate()}
    model = LLM(devices="cpu", max_batch_size=BATCH, quiet=True)
    stream = model.generate(QUESTION, stream=True, temperature=2.0)
    next(stream)
    model.close()
    model.close()
    with pytest.raises(RuntimeError):
        list(stream)
    with pytest.raises(RuntimeError, match="closed"):
        model.generate(QUESTION)
    left = {thread.name for thread in threading.enumerate()} - before
    assert not [name for name in left if name.startswith("mllama")]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_program_can_end_during_an_answer(temperature: float) -> None:
    script = (
        "from mllama import LLM\n"
        f"model = LLM(devices='cpu', max_batch_size={BATCH}, quiet=True)\n"
        f"stream = model.generate({QUESTION!r}, stream=True,\n"
        f"    max_new_tokens=500, temperature={temperature})\n"
        "print(len([next(stream) for _ in range(3)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3"
    assert "Traceback" not in done.stderr


def test_caches_take_no_memory_before_they_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The KV cache and the image cache are committed lazily."""
    zeros, sizes = LazilyCommittedBuffer.zeros, []

    def record(shape: Sequence[int], dtype: DType, device: Device) -> Any:
        sizes.append(math.prod(shape) * dtype.size_in_bytes)
        return zeros(shape, dtype, device)

    monkeypatch.setattr(LazilyCommittedBuffer, "zeros", record)
    before = psutil.Process().memory_info().rss
    with LLM(
        devices="cpu", max_batch_size=BATCH, image_cache_size="6GiB", quiet=True
    ) as model:
        model.generate(QUESTION, max_new_tokens=2)
        assert psutil.Process().memory_info().rss - before < 4 * 2**30
    assert len(sizes) == 2
    assert max(sizes) > 5.9 * 2**30


def test_an_idle_model_does_not_spin() -> None:
    """Two variables say how long threads spin; setting one of them sets both."""
    script = (
        "import pathlib, time\n"
        "from mllama import LLM\n"
        "def wakes():\n"
        "    files = pathlib.Path('/proc/self/task').glob('*/schedstat')\n"
        "    return {f.parent.name: int(f.read_text().split()[2]) for f in files}\n"
        f"with LLM(devices='cpu', max_batch_size={BATCH}, quiet=True) as llm:\n"
        f"    llm.generate({QUESTION!r}, max_new_tokens=2)\n"
        "    before = wakes()\n"
        "    time.sleep(1)\n"
        "    for thread, count in wakes().items():\n"
        "        slack = pathlib.Path(f'/proc/{thread}/timerslack_ns').read_text()\n"
        "        print(count - before.get(thread, 0), int(slack))\n"
    )
    # The child inherits what this process has set for itself.
    environment = {
        name: value for name, value in os.environ.items() if "BUSY_WAIT" not in name
    }
    environment["MODULAR_THREAD_BUSY_WAIT_US"] = "70"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    threads = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    # One of the threads empties a buffer of MAX, and may be late by 10 ms.
    assert max(threads)[1] >= 10_000_000
    # That thread wakes with the timers of other processes: 4,000 times beside a test
    # whose threads of MAX have short timers, 100 times alone, and 5,000 times without
    # the slack.
    assert all(count < 1000 for count, slack in threads if slack < 10_000_000)


def test_child_processes_run_the_same_python() -> None:
    """MAX sets variables that would make a child start another Python."""
    script = (
        "import subprocess, sys\n"
        "from mllama import LLM\n"
        f"with LLM(devices='cpu', max_batch_size={BATCH}, quiet=True):\n"
        "    command = [sys.executable, '-c', 'import sys; print(sys.prefix)']\n"
        "    subprocess.run(command, check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sys.prefix
