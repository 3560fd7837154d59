"""Photos don't hold up the streams of other requests."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
from PIL import Image

from tests.processes import children, is_running
from tests.timing import is_kept_in_a_round

from .conftest import Server, image_cache, running

PHOTO = (6000, 4000)
MOST_COLLECTED = 50_000
"""Objects that a garbage collection visits in a few milliseconds.

The modules of a server have five times as many."""
MOST_BUSY = 0.5
"""Of the time that parsing a request and decoding its base64 take, the share that the
loop may compute at once."""


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("probed") / "log"
    with running(log, module="benchmarks.probed_server") as started:
        yield started


def photo(seed: int, size: tuple[int, int] = PHOTO, mode: str = "RGB") -> bytes:
    """Returns a JPEG file, or a PNG file for a mode with transparency."""
    shape = (size[1] // 8, size[0] // 8, 3)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(noise).resize(size).convert(mode)
    picture.save(file, "PNG" if mode == "RGBA" else "JPEG", compress_level=1)
    return file.getvalue()


def ask(server: Server, *contents: bytes) -> Any:
    parts: list[Any] = [
        {
            "type": "image_url",
            "image_url": {
                "url": "data:image/jpeg;base64," + base64.b64encode(content).decode()
            },
        }
        for content in contents
    ]
    parts.append({"type": "text", "text": "What is in the picture?"})
    return server.client().chat.completions.create(
        model="mllama-demo",
        messages=[{"role": "user", "content": parts}],
        max_tokens=2,
    )


def probe(server: Server) -> dict[str, float]:
    """Returns the figures of the event loop since the last call, in seconds."""
    figures: dict[str, float] = httpx.get(f"{server.url}/probe").json()
    return figures


def test_photos_that_arrive_do_not_hold_the_event_loop(probed: Server) -> None:
    ask(probed, photo(0, (64, 64)))  # loads what later images find loaded
    rounds: list[tuple[float, float]] = []

    def arrive() -> bool:
        first = 4 * len(rounds)
        contents = [photo(seed) for seed in range(first, first + 3)]
        contents.append(photo(first + 3, (3000, 2000), "RGBA"))
        probe(probed)
        with ThreadPoolExecutor(len(contents)) as threads:
            list(threads.map(ask, [probed] * len(contents), contents))
        rounds.append((probe(probed)["busy"], reading_seconds(contents[-1])))
        busy, reading = rounds[-1]
        return busy < MOST_BUSY * reading

    assert is_kept_in_a_round(arrive), rounds


def reading_seconds(content: bytes) -> float:
    """Returns the CPU time of what the loop must not do, on this machine."""
    body = json.dumps({"image": base64.b64encode(content).decode()}).encode()
    started = time.thread_time()
    base64.b64decode(json.loads(body)["image"], validate=True)
    return time.thread_time() - started


def test_a_garbage_collection_does_not_hold_the_event_loop(probed: Server) -> None:
    ask(probed, photo(50, (64, 64)))
    assert probe(probed)["collected"] < MOST_COLLECTED


def test_several_photos_of_a_request_are_answered(probed: Server) -> None:
    contents = [photo(seed, (2000, 1500)) for seed in (10, 11, 12)]
    assert all(len(content) > 100_000 for content in contents)
    usage = ask(probed, *contents).usage
    one = ask(probed, contents[0]).usage
    assert usage.prompt_tokens_details.image_tokens == (
        3 * one.prompt_tokens_details.image_tokens
    )


def test_32_photos_of_a_phone_are_one_chat(probed: Server) -> None:
    """With the limits that a server has by itself."""
    photos = [
        turned(content, orientation)
        for content in map(phone_photo, range(4))
        for orientation in range(1, 9)
    ]
    assert len(set(photos)) == 32
    # More than MAX's limits, in the body and in the files.
    assert sum(map(len, photos)) > 100 * 2**20
    one = ask(probed, photos[0]).usage
    before = image_cache(probed)["misses_total"]
    usage = ask(probed, *photos).usage
    assert usage.prompt_tokens_details.image_tokens == (
        32 * one.prompt_tokens_details.image_tokens
    )
    assert image_cache(probed)["misses_total"] - before == 31
    with pytest.raises(openai.BadRequestError, match="--max-images-per-request"):
        ask(probed, *[photo(70, (64, 64))] * 33)


def test_a_body_over_256_mib_is_refused_by_its_header(probed: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", probed.port, timeout=60)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(256 * 2**20 + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    error = json.loads(response.read())["error"]
    assert "MAX_SERVE_MAX_REQUEST_BYTES" in error["message"]
    connection.close()


def phone_photo(seed: int) -> bytes:
    """Returns a JPEG file of 12 megapixels and the size that phones give it."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (375, 500, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((4000, 3000))
    grain = Image.effect_noise((4000, 3000), 40).convert("RGB")
    file = io.BytesIO()
    Image.blend(picture, grain, 0.25).save(file, "JPEG", quality=85)
    return file.getvalue()


def turned(content: bytes, orientation: int) -> bytes:
    """Returns a JPEG file with an EXIF orientation, without encoding it again."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    segment = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    length = (len(segment) + 2).to_bytes(2, "big")
    return content[:2] + b"\xff\xe1" + length + segment + content[2:]


@pytest.mark.parametrize("size", [(40, 30), (2000, 1500)])
def test_a_photo_that_lacks_a_third_is_refused_by_its_number(
    probed: Server, size: tuple[int, int]
) -> None:
    content = photo(20, size)
    with pytest.raises(
        openai.BadRequestError, match=r"image 2: .*(can't be decoded|damaged)"
    ):
        ask(probed, photo(21, (64, 64)), content[: len(content) * 2 // 3])
    assert ask(probed, content).choices


def test_photos_are_prepared_apart_by_processes_that_may_die(probed: Server) -> None:
    ask(probed, photo(30, (2000, 1500)))
    preparing = image_processes(probed)
    assert preparing
    for pid in preparing:
        os.kill(pid, signal.SIGKILL)
    assert ask(probed, photo(31, (2000, 1500))).choices
    assert set(image_processes(probed)).isdisjoint(preparing)


def test_the_processes_for_photos_end_with_the_server(tmp_path: Path) -> None:
    with running(tmp_path / "log") as server:
        ask(server, photo(40, (64, 64)))
        preparing = image_processes(server)
        assert preparing
    assert not any(map(is_running, preparing))


def image_processes(server: Server) -> list[int]:
    """Returns the ids of the processes that the server's fork server has started."""
    return [
        process.pid
        for fork_server in children(server.process.pid)
        if "forkserver" in command(fork_server)
        for process in children(fork_server.pid)
    ]


def command(process: psutil.Process) -> str:
    """Returns the command line of a process; nothing if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
