"""Images are prepared on several threads, within a limit of memory."""

from __future__ import annotations

import io
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mllama.config import MllamaVisionConfig
from mllama.errors import (
    EngineOverloadedError,
    EngineUnavailableError,
    ImageDecodeError,
    ImageError,
)
from mllama.images import load, preparation, rgb
from mllama.images.load import open_image
from mllama.images.preparation import MemoryLimit, decode_image, prepare_image
from mllama.images.preprocess import ImageProcessor

PROCESSOR = ImageProcessor(
    {}, MllamaVisionConfig.from_dict({"image_size": 56, "patch_size": 14})
)


def png(size: tuple[int, int] = (90, 70), color: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def test_contents_pictures_and_files_become_the_same_tiles() -> None:
    content = png()
    picture = Image.open(io.BytesIO(content))
    wanted = PROCESSOR(load.load_image(content))
    for image in (content, picture, open_image(content)):
        tiles = prepare_image(image, PROCESSOR).result()
        assert tiles.hash == wanted.hash
        np.testing.assert_array_equal(tiles.pixel_values, wanted.pixel_values)


def test_errors_are_those_of_loading() -> None:
    with pytest.raises(ImageError, match="not an image"):
        prepare_image(b"text", PROCESSOR).result()
    truncated = png((500, 500))[:-400]
    with pytest.raises(ImageDecodeError, match="can't be decoded"):
        prepare_image(truncated, PROCESSOR).result()
    with pytest.raises(ImageDecodeError, match="can't be decoded"):
        decode_image(open_image(truncated)).result()


def test_two_threads_may_get_one_picture_that_is_not_decoded() -> None:
    content = png((400, 300))
    for _ in range(20):
        picture = Image.open(io.BytesIO(content))
        futures = [prepare_image(picture, PROCESSOR) for _ in range(4)]
        assert len({future.result().hash for future in futures}) == 1


class DecodesForEver:
    """In place of a process that makes tiles: it never does, and tries twice."""

    def __init__(self, initialize: Any = None) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.codes: list[int] = []

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        pass

    def prepare(self, *_: Any) -> Any:
        for _try in range(2):
            self._process = subprocess.Popen(["sleep", "1000"])
            self.codes.append(self._process.wait())
            self._process = None
        raise ImageDecodeError("the process died")


def test_the_end_of_a_server_gives_up_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "WorkerProcess", DecodesForEver)
    preparation._threads.cache_clear()
    preparation.start_worker_processes()
    processes: Any = preparation._processes
    executor = preparation._threads()
    begun = [prepare_image(png(), PROCESSOR) for _ in processes.all]
    later = [prepare_image(png(), PROCESSOR) for _ in range(3)]
    while any(process.pid is None for process in processes.all):
        time.sleep(0.01)
    preparation.end_worker_processes()
    for future in begun:
        with pytest.raises(ImageDecodeError):
            future.result(60)
    assert all(future.cancelled() for future in later)
    assert [process.codes for process in processes.all] == [[-9, -9]] * len(begun)
    # The end of Python would wait for these.
    for thread in executor._threads._threads:
        thread.join(60)
        assert not thread.is_alive()
    # Afterwards all is as before the server.
    assert prepare_image(png(), PROCESSOR).result().hash
    with pytest.raises(EngineUnavailableError), processes.take():
        pass


def test_memory_is_limited_and_given_in_order() -> None:
    limit = MemoryLimit(10)
    used, most, order = 0, 0, []
    lock = threading.Lock()

    def hold(number: int, size: int) -> None:
        nonlocal used, most
        with limit.reserve(size):
            with lock:
                order.append(number)
                used += size
                most = max(most, used)
            time.sleep(0.005)
            with lock:
                used -= size

    sizes = [4, 4, 4, 10, 1, 50, 1, 3]
    with ThreadPoolExecutor(len(sizes)) as pool:
        waiting: list[Any] = []
        with limit.reserve(10):
            for number, size in enumerate(sizes):
                waiting.append(pool.submit(hold, number, size))
                while len(limit._queue) < len(waiting):
                    time.sleep(0.001)
        for future in waiting:
            future.result()
    # What may be held together may be noted in any order.
    assert {*order[:3]} == {0, 1, 2}
    assert order[3:6] == [3, 4, 5]
    assert {*order[6:]} == {6, 7}
    assert most == 50, "more than the limit is given alone"
    assert used == 0


def test_a_wait_for_memory_ends_and_leaves_nothing() -> None:
    limit = MemoryLimit(10)
    done = threading.Event()

    def wait() -> None:
        with limit.reserve(3, time.monotonic() + 60):
            done.set()

    with limit.reserve(8):
        with (
            pytest.raises(EngineOverloadedError, match="no memory") as caught,
            limit.reserve(5, time.monotonic() + 0.05),
        ):
            pass
        assert caught.value.retry_after >= 1
        # Nobody waits for the one that has given up.
        with limit.reserve(2, time.monotonic() + 60):
            pass
        thread = threading.Thread(target=wait)
        thread.start()
    assert done.wait(60)
    thread.join()
    # What has waited too long for its turn isn't begun.
    with (
        limit.reserve(8),
        pytest.raises(EngineOverloadedError),
        limit.reserve(5, time.monotonic() - 1),
    ):
        pass
    with limit.reserve(10):
        pass


def test_memory_is_freed_after_an_error() -> None:
    limit = MemoryLimit(10)
    with pytest.raises(RuntimeError), limit.reserve(10):
        raise RuntimeError
    with limit.reserve(10):
        pass


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "RGBA", "PA"])
def test_strips_make_the_same_picture(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (50, 40, 4)).astype(np.uint8)
    image = Image.fromarray(values)
    image = image.convert("RGB").convert("P") if mode in ("P", "PA") else image
    image = image.convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(range(256))
    whole = load.load_image(image)
    monkeypatch.setattr(rgb, "STRIP_PIXELS", 120)
    assert whole.tobytes() == load.load_image(image).tobytes()


def test_memory_goes_to_the_client_that_holds_least() -> None:
    limit, order = MemoryLimit(10), []

    def hold(client: str, size: int) -> None:
        with limit.reserve(size, client=client):
            order.append(client)

    with ThreadPoolExecutor(4) as pool, limit.reserve(10, client="A"):
        waiting = []
        for client in "AAAB":
            waiting.append(pool.submit(hold, client, 10))
            while len(limit._queue) < len(waiting):
                time.sleep(0.001)
    for each in waiting:
        each.result()
    assert order == ["B", "A", "A", "A"]
