"""Measures how long images take from their file to the model, and what they hold up.

    python -m benchmarks.image_preparation
    python -m benchmarks.image_preparation --baseline DIR     # beside another checkout
    python -m benchmarks.image_preparation --part preparation --baseline DIR

``preparation``: milliseconds of one core from an RGB picture, and from the content of a
JPEG file, to tiles and their hash.  ``stream``: six photos of 24 megapixels reach a
server of the demo model, each in a request of its own, while another request streams:
the gaps between the stream's tokens, alone and beside the photos, and for how long the
server's event loop was late and busy (``benchmarks/probed_server.py``).

Checkouts take turns, and each round of a part has new pictures.  Prints one JSON object
with medians over ``--rounds``.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).parents[1]
SIZES = ((640, 480), (1120, 1120), (4000, 3000))
PHOTO = (6000, 4000)
SMALL = (192, 128)
"""As many tiles of 64 pixels, the demo model's, as ``PHOTO``."""
PHOTOS = 6
TILE = 560
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "size": {"height": TILE, "width": TILE},
}


def photo(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """Returns a picture with detail at the scale of a photo's."""
    shape = (height // 8 + 1, width // 8 + 1, 3)
    coarse = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BILINEAR)


def jpeg(picture: Image.Image) -> bytes:
    """Returns a JPEG file of a camera's quality."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def prepare(seed: int) -> dict[str, float]:
    """Returns the CPU time of this checkout for each size, in milliseconds."""
    from mllama.config import MllamaVisionConfig
    from mllama.images.load import load_image
    from mllama.images.preprocess import ImageProcessor

    try:
        from mllama.images.load import open_image
    except ImportError:
        decode: Callable[[bytes], Image.Image] = load_image
    else:

        def decode(content: bytes) -> Image.Image:
            return open_image(content).decode()

    vision = MllamaVisionConfig.from_dict({"image_size": TILE, "patch_size": 14})
    processor = ImageProcessor(CLIP, vision)
    generator = np.random.default_rng(seed)
    times: dict[str, float] = {}
    for width, height in SIZES:
        content = jpeg(photo(generator, width, height))
        picture = load_image(content)
        for name, work in (
            ("picture", lambda picture=picture: processor(picture)),
            ("file", lambda content=content: processor(decode(content))),
        ):
            work()
            started = time.thread_time()
            for _ in range(5):
                work()
            each = (time.thread_time() - started) / 5
            times[f"{name} {width}x{height}"] = each * 1000
    return times


class Server:
    """A probed server of the demo model, with the package of one checkout."""

    def __init__(self, checkout: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, str(HERE / "benchmarks" / "probed_server.py")]
        command += ["serve", "--devices", "cpu", "--max-batch-size", "8"]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            # The worker's process finds the package in the working directory first.
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            stderr=subprocess.DEVNULL,
        )
        while True:
            try:
                self.get("/health")
            except OSError:
                if self.process.poll() is not None:
                    raise
                time.sleep(0.5)
            else:
                return

    def get(self, path: str) -> bytes:
        """Returns the content of a path."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        return connection.getresponse().read()

    def probe(self) -> dict[str, float]:
        """Returns the probe's report since the last one."""
        report: dict[str, float] = json.loads(self.get("/probe"))
        return report

    def ask(self, body: bytes) -> http.client.HTTPResponse:
        """Sends a chat request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request(
            "POST",
            "/v1/chat/completions",
            body,
            {"Content-Type": "application/json"},
        )
        return connection.getresponse()

    def stop(self) -> None:
        """Stops the server."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


def chat(content: Any, **options: Any) -> bytes:
    """Returns the body of a chat request to the demo model."""
    message = {"role": "user", "content": content}
    return json.dumps(
        {"model": "mllama-demo", "messages": [message], **options}
    ).encode()


def photo_request(content: bytes) -> bytes:
    """Returns the body of a question about a JPEG file."""
    url = "data:image/jpeg;base64," + base64.b64encode(content).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    return chat(parts, max_tokens=2)


class Stream:
    """A request that streams in a thread, and the times at which its tokens arrive.

    It is created when 50 tokens have arrived.
    """

    def __init__(self, server: Server) -> None:
        body = chat("Hello", max_tokens=3900, stream=True, ignore_eos=True)
        self.times: list[float] = []
        self._response = server.ask(body)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        while len(self.times) < 50 and self._thread.is_alive():
            time.sleep(0.01)

    def _read(self) -> None:
        for line in self._response:
            if line.startswith(b"data: {"):
                self.times.append(time.perf_counter())

    def gaps(self, start: float, end: float) -> list[float]:
        """Returns the gaps between tokens that arrived in an interval."""
        times = [at for at in self.times if start <= at <= end]
        return [b - a for a, b in itertools.pairwise(times)]

    def is_running(self) -> bool:
        """Returns True while tokens arrive."""
        return self._thread.is_alive()

    def wait(self) -> None:
        """Waits until the stream has ended."""
        self._thread.join()


def disturbed(
    server: Server, photos: list[bytes], small: list[bytes]
) -> dict[str, float]:
    """Streams alone, beside small pictures and beside photos.

    Args:
        server: The server.
        photos: Bodies of requests about photos.
        small: Bodies of as many requests about pictures that become as many tiles.

    Returns:
        Milliseconds, unless the name has another unit.
    """
    stream = Stream(server)
    started = time.perf_counter()
    time.sleep(1.5)
    alone = stream.gaps(started, time.perf_counter())
    quiet = server.probe()
    stream.wait()
    beside_small, _ = _ask_all(server, small)
    server.probe()
    beside, seconds = _ask_all(server, photos)
    busy = server.probe()
    return {
        "gap p99 alone": _p99(alone) * 1000,
        "gap p99 beside small pictures": _p99(beside_small) * 1000,
        "longest gap beside small pictures": max(beside_small) * 1000,
        "gap p99 beside photos": _p99(beside) * 1000,
        "longest gap beside photos": max(beside) * 1000,
        "loop late alone": quiet["late"] * 1000,
        "loop late beside photos": busy["late"] * 1000,
        "loop busy alone": quiet["busy"] * 1000,
        "loop busy beside photos": busy["busy"] * 1000,
        "until all photos are answered, s": seconds,
        "server's memory, MiB": busy["memory"] / 2**20,
    }


def _ask_all(server: Server, bodies: list[bytes]) -> tuple[list[float], float]:
    """Returns a stream's gaps while requests are answered, and their seconds."""
    statuses: list[int] = []
    stream = Stream(server)

    def send(body: bytes) -> None:
        response = server.ask(body)
        response.read()
        statuses.append(response.status)

    started = time.perf_counter()
    threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = time.perf_counter()
    if statuses != [200] * len(bodies):
        raise RuntimeError(f"the pictures were answered with {statuses}")
    if not stream.is_running():
        raise RuntimeError("the stream ended before the pictures were answered")
    stream.wait()
    return stream.gaps(started, ended), ended - started


def _p99(values: list[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {
        name: round(statistics.median(each[name] for each in rounds), 2)
        for name in rounds[0]
    }


def measure_preparation(checkouts: dict[str, Path], rounds: int) -> dict[str, Any]:
    """Measures each checkout in processes of its own."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for number in range(rounds):
        for name, checkout in checkouts.items():
            done = subprocess.run(
                [sys.executable, __file__, "--part", "one", "--seed", str(number)],
                cwd=checkout,
                env=os.environ | {"PYTHONPATH": str(checkout)},
                stdout=subprocess.PIPE,
                check=True,
            )
            results[name].append(json.loads(done.stdout))
    return {name: _medians(measured) for name, measured in results.items()}


def measure_stream(checkouts: dict[str, Path], rounds: int) -> dict[str, Any]:
    """Measures a server of each checkout, one after the other in each round."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    generator = np.random.default_rng(0)
    for _ in range(rounds):
        photos = [photo_request(jpeg(photo(generator, *PHOTO))) for _ in range(PHOTOS)]
        small = [photo_request(jpeg(photo(generator, *SMALL))) for _ in range(PHOTOS)]
        for name, checkout in checkouts.items():
            server = Server(checkout)
            try:
                # The first photo loads what later ones find loaded.
                server.ask(photo_request(jpeg(photo(generator, 64, 64)))).read()
                results[name].append(disturbed(server, photos, small))
            finally:
                server.stop()
    return {name: _medians(measured) for name, measured in results.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--baseline", type=Path, help="another checkout to compare")
    parser.add_argument(
        "--part", choices=("all", "preparation", "stream", "one"), default="all"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.part == "one":
        print(json.dumps(prepare(options.seed)))
        return
    checkouts = {"this": HERE}
    if options.baseline is not None:
        checkouts["baseline"] = options.baseline.resolve()
    report: dict[str, Any] = {}
    if options.part != "stream":
        report["preparation, ms"] = measure_preparation(checkouts, options.rounds)
    if options.part != "preparation":
        report["stream, ms"] = measure_stream(checkouts, options.rounds)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
