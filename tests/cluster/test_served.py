"""``mllama cluster serve`` with the demo model, on a Ray of this machine."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
from PIL import Image

from mllama.demo_model import PICTURES
from tests.ports import free_port

START_SECONDS = 600
"""A loaded machine takes its time; the first run may compile graphs."""

SETTLE_SECONDS = 400
REPLICAS = 2
DEFAULT_TOKENS = 7
ADMIN_KEY = "administrator"
LOOPBACK = ("127.0.0.1", "::ffff:127.0.0.1", "::1")


class Cluster:
    """A cluster of this machine, and the front in its own process."""

    def __init__(self, folder: Path, *options: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        self.log = folder / "log"
        command = [sys.executable, "-m", "mllama", "cluster", "serve"]
        command += ["--devices", "cpu", "--max-batch-size", "4", "--port", str(port)]
        command += ["--replicas", str(REPLICAS), "--ray-cpus", "4", *options]
        environment = os.environ | {"RAY_TMPDIR": str(folder)}
        environment.pop("MAX_SERVE_DISABLE_TELEMETRY", None)
        self.process = subprocess.Popen(
            command,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            env=environment,
        )

    def wait(self) -> None:
        """Waits until it answers."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                # A replica that comes later takes some of the others' keys.
                if self.metric("mllama_replicas") == REPLICAS:
                    return
            time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def metric(self, name: str) -> float:
        """Returns the value of a metric."""
        lines = httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        (value,) = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
        return float(value)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Waits until something is so."""
        end = time.monotonic() + SETTLE_SECONDS
        while not is_so():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """Returns all processes that it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def address(self) -> str:
        """Returns the address of Ray's head node."""
        option = "--gcs-address="
        for each in self.processes():
            with contextlib.suppress(psutil.Error):
                for argument in " ".join(each.cmdline()).split():
                    if argument.startswith(option):
                        return argument.removeprefix(option)
        raise AssertionError("no process of Ray names its address")

    def replicas(self) -> list[psutil.Process]:
        """Returns the processes of the replicas."""
        found = []
        for each in self.processes():
            with contextlib.suppress(psutil.Error):
                if "Replica:mllama" in "".join(each.cmdline()[:1]):
                    found.append(each)
        return found

    def chat(self, picture: Path | None, text: str, **fields: Any) -> httpx.Response:
        """Asks about a picture."""
        parts: list[Any] = [{"type": "text", "text": text}]
        if picture is not None:
            url = base64.b64encode(picture.read_bytes()).decode()
            parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
        return httpx.post(
            f"{self.url}/v1/chat/completions",
            json={
                "model": "",
                "messages": [{"role": "user", "content": parts}],
                "max_tokens": 16,
                **fields,
            },
            timeout=SETTLE_SECONDS,
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Ray's sockets must have short paths.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        started = Cluster(
            Path(folder),
            *("--attention", "--admin-key", ADMIN_KEY),
            *("--max-new-tokens", str(DEFAULT_TOKENS)),
        )
        try:
            started.wait()
            yield started
            processes = started.processes()
            assert len(processes) > REPLICAS
            started.process.send_signal(signal.SIGTERM)
            assert started.process.wait(60) == 0, started.log.read_text()
            _, left = psutil.wait_procs(processes, 20)
            assert left == []
        finally:
            if started.process.poll() is None:
                started.process.kill()
                started.process.wait()


def test_a_picture_is_encoded_once_and_its_turns_stay_with_it(
    cluster: Cluster,
) -> None:
    encoded = cluster.metric("mllama_image_cache_misses_total")
    for picture in PICTURES:
        answers = [
            cluster.chat(picture.path, question)
            for question in ("What is there?", "Which colors are there?", "How many?")
        ]
        assert {each.status_code for each in answers} == {200}
        assert len({each.headers["x-replica-id"] for each in answers}) == 1
        assert len({each.headers["x-affinity-key"] for each in answers}) == 1
    misses = cluster.metric("mllama_image_cache_misses_total")
    assert misses - encoded == len(PICTURES)


def test_clients_get_usage_logprobs_formats_and_streams(cluster: Cluster) -> None:
    client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0)
    (model,) = client.models.list().data
    messages: Any = [{"role": "user", "content": "Say something about " * 40}]
    for _ in range(2):
        whole = client.chat.completions.create(
            model=model.id,
            messages=messages,
            max_tokens=40,
            logprobs=True,
            top_logprobs=2,
            response_format={"type": "json_object"},
        )
    assert whole.usage is not None
    assert whole.usage.prompt_tokens_details is not None
    assert whole.usage.prompt_tokens_details.cached_tokens
    choice = whole.choices[0]
    assert (choice.message.content or "").lstrip().startswith("{")
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert len(choice.logprobs.content[0].top_logprobs) == 2
    stream = client.chat.completions.create(
        model=model.id, messages=messages, max_tokens=8, stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_a_length_is_given_to_requests_that_set_none(cluster: Cluster) -> None:
    response = cluster.chat(None, "Tell a story.", max_tokens=None, ignore_eos=True)
    assert response.json()["usage"]["completion_tokens"] == DEFAULT_TOKENS
    assert response.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_words_come_with_where_they_looked(cluster: Cluster, stream: bool) -> None:
    picture = PICTURES[0]
    response = cluster.chat(
        picture.path, "What is there?", attention={"heads": [[1, 0]]}, stream=stream
    )
    assert response.status_code == 200, response.text
    if stream:
        chunks = [
            json.loads(line.removeprefix("data: "))
            for line in response.text.splitlines()
            if line.startswith("data: {")
        ]
        (found,) = [
            choice["attention"]
            for chunk in chunks
            for choice in chunk["choices"]
            if choice.get("attention")
        ]
    else:
        found = response.json()["choices"][0]["attention"]
    assert [each["text"] for each in found["words"]]
    assert len(found["images"]) == 1
    refused = cluster.chat(picture.path, "What?", attention={"layers": [2]})
    assert refused.status_code == 400
    assert "layer 2 has no cross-attention" in refused.json()["error"]["message"]


def test_prefix_caches_are_emptied_by_the_administrator(cluster: Cluster) -> None:
    text = "Say something about " * 40

    def cached() -> int:
        usage = cluster.chat(None, text, max_tokens=1).json()["usage"]
        details = usage["prompt_tokens_details"] or {}
        return int(details.get("cached_tokens") or 0)

    cached()
    assert cached() > 0
    path = f"{cluster.url}/reset_prefix_cache"
    assert httpx.post(path, timeout=60).status_code == 401
    key = {"Authorization": f"Bearer {ADMIN_KEY}"}
    assert httpx.post(path, headers=key, timeout=60).text == "Success"
    assert cached() == 0


def test_metrics_are_those_of_all_replicas(cluster: Cluster) -> None:
    assert cluster.chat(PICTURES[0].path, "What is there?").status_code == 200
    one = cluster.metric("mllama_kv_cache_blocks") / REPLICAS
    assert one > 0
    assert one == int(one)
    assert cluster.metric("mllama_worker_up") == 1
    cluster.until(lambda: cluster.metric("mllama_kv_cache_usage_perc") == 0)
    assert cluster.metric("mllama_image_cache_used_bytes") > 0
    encoded = cluster.metric("mllama_image_encode_seconds_count")
    assert 0 < encoded <= cluster.metric("mllama_image_cache_misses_total")
    memory = cluster.metric('mllama_process_resident_memory_bytes{process="worker"}')
    # Of each replica, where that of the front is "server".
    assert memory > REPLICAS * 100 * 2**20


def test_a_second_front_is_refused_while_the_first_runs(cluster: Cluster) -> None:
    environment = {
        "RAY_TMPDIR": str(cluster.folder),
        # As the first front has set them for its cluster.
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    # `auto` may find the cluster of another test.
    line = refused("--address", cluster.address(), **environment)
    assert line == (
        "error: the cluster has an application 'mllama' already, of a `mllama cluster "
        "serve` that runs: end that one, or give this one another --name"
    )
    assert cluster.metric("mllama_replicas") == REPLICAS
    assert cluster.chat(None, "Hi", max_tokens=1).status_code == 200


def test_prompts_are_tokenized_by_a_replica(cluster: Cluster) -> None:
    body = {"model": "", "prompt": "What is there?"}
    response = httpx.post(f"{cluster.url}/tokenize", json=body, timeout=60)
    assert response.status_code == 200, response.text
    assert response.json()["count"] == len(response.json()["tokens"])


def test_a_picture_that_is_none_is_named(cluster: Cluster, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(PICTURES[0].path.read_bytes()[:200])
    response = cluster.chat(damaged, "What is it?")
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].startswith("image 1: ")
    assert error["param"] == "messages[0].content[0].image_url"


def test_a_picture_may_be_larger_than_a_message_of_ray(
    cluster: Cluster, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (1400, 1400, 3), np.uint8)
    photo = tmp_path / "photo.png"
    Image.fromarray(pixels).save(photo, compress_level=0)
    assert photo.stat().st_size > 5 << 20
    response = cluster.chat(photo, "What is it?")
    assert response.status_code == 200, response.text


def test_a_client_that_leaves_frees_its_place(cluster: Cluster) -> None:
    body = {
        "model": "",
        "messages": [{"role": "user", "content": "Tell a story."}],
        "max_tokens": 2000,
        "ignore_eos": True,
        "stream": True,
    }
    generated = "mllama_generation_tokens_total"
    with httpx.stream(
        "POST", f"{cluster.url}/v1/chat/completions", json=body, timeout=60
    ) as response:
        assert response.status_code == 200, response.read()
        lines = response.iter_lines()
        # The first event has no token yet.
        assert all(next(lines).startswith(start) for start in ("data: {", "", "data:"))
        assert cluster.metric("mllama_num_requests_running") == 1
    cluster.until(lambda: cluster.metric("mllama_num_requests_running") == 0)
    counted = cluster.metric(generated)
    assert counted < 2000
    # The replica, too, has given it up: it would wait for this one otherwise.
    assert cluster.chat(None, "Hi", max_tokens=1).status_code == 200
    assert cluster.metric(generated) == counted + 1


def test_a_replica_that_is_killed_loses_no_request_without_a_clear_error(
    cluster: Cluster,
) -> None:
    pid = cluster.replicas()[0].pid
    end = time.monotonic() + 6

    def client(number: int) -> list[httpx.Response]:
        answers = []
        while time.monotonic() < end:
            answers.append(
                cluster.chat(
                    PICTURES[number % len(PICTURES)].path,
                    f"Question {number}",
                    stream=bool(number % 2),
                    max_tokens=24,
                )
            )
        return answers

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(client, number) for number in range(6)]
        time.sleep(2)
        os.kill(pid, signal.SIGKILL)
        answers = [answer for each in running for answer in each.result()]
    for answer in answers:
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 503:
            assert "Retry-After" in answer.headers
            assert "node 127.0.0.1" in answer.json()["error"]["message"]
        elif "text/event-stream" in answer.headers["content-type"]:
            last = answer.text.strip().split("\n\n")[-1]
            assert last == "data: [DONE]" or "node 127.0.0.1" in last
    assert {answer.status_code for answer in answers} >= {200}
    cluster.until(
        lambda: (
            len(cluster.replicas()) == REPLICAS
            and cluster.metric("mllama_replicas") == REPLICAS
        )
    )
    assert cluster.chat(PICTURES[0].path, "And now?").status_code == 200
    assert pid not in {each.pid for each in cluster.replicas()}


def test_only_loopback_listens(cluster: Cluster) -> None:
    for process in [psutil.Process(cluster.process.pid), *cluster.processes()]:
        for connection in process.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN:
                continue
            if connection.laddr.ip in LOOPBACK:
                continue
            # Ray Serve's own way between replicas listens everywhere, and asks for the
            # cluster's token.
            assert "Replica:mllama" in process.cmdline()[0]
            assert process.environ()["RAY_AUTH_MODE"] == "token"


def refused(*options: str, **environment: str) -> str:
    """Returns what the command says about options that it refuses."""
    done = subprocess.run(
        [sys.executable, "-m", "mllama", "cluster", "serve", "--port", "0", *options],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in done.stderr
    return line


def test_an_address_without_a_cluster_is_refused() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        assert f"there is no Ray cluster at {address}" in refused("--address", address)
