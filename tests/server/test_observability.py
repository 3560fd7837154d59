"""What a real server records: metrics of both processes, and its log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.server.conftest import Server
from tests.server.test_server import data_url

CHAT = "/v1/chat/completions"


def metrics(server: Server) -> dict[str, float]:
    """All series of the server by their names and labels' values."""
    text = httpx.get(f"{server.url}/metrics").text
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def chat(server: Server, image: str | None = None, **fields: object) -> httpx.Response:
    content: list[object] = [{"type": "text", "text": "What is this?"}]
    if image is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": image}})
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
    return httpx.post(
        f"{server.url}{CHAT}",
        json={**body, **fields},
        headers={"x-request-id": f"watched-{time.time_ns()}"},
        timeout=600,
    )


@pytest.fixture
def changes(server: Server) -> Callable[[], dict[str, float]]:
    before = metrics(server)

    def changed() -> dict[str, float]:
        return {
            name: value - before.get(name, 0) for name, value in metrics(server).items()
        }

    return changed


def test_an_answer_is_in_the_metrics_of_both_processes(
    server: Server, changes: Callable[[], dict[str, float]]
) -> None:
    # A picture that no other test shows.
    picture = data_url(Image.new("RGB", (37, 29), "teal"))
    usage = chat(server, picture).json()["usage"]
    change = changes()
    assert change[f"mllama_requests_total openai ok {CHAT}"] == 1
    assert change["mllama_generation_tokens_total"] == usage["completion_tokens"]
    assert change["mllama_prompt_tokens_total"] == usage["prompt_tokens"]
    assert change["mllama_time_to_first_token_seconds_count"] == 1
    assert change["mllama_prompt_images_total"] == 1
    # The worker's.
    assert change["mllama_image_encode_seconds_count"] == 1
    assert change["mllama_image_encode_seconds_sum"] > 0
    assert change["mllama_image_cache_misses_total"] == 1
    now = metrics(server)
    assert now["mllama_kv_cache_blocks"] > now["mllama_kv_cache_used_blocks"] >= 0
    assert now["mllama_worker_up"] == 1
    assert now["mllama_num_requests_running"] == 0
    for process in ("server", "worker", "images"):
        resident = now[f"mllama_process_resident_memory_bytes {process}"]
        private = now[f"mllama_process_private_memory_bytes {process}"]
        assert 2**20 < private < resident < 2**40


def test_random_paths_make_no_series(server: Server) -> None:
    httpx.get(f"{server.url}/random")
    before = set(metrics(server))
    for number in range(20):
        httpx.get(f"{server.url}/random-{number}")
    assert set(metrics(server)) == before


def test_the_log_has_a_line_for_each_request(server: Server) -> None:
    logged = len(server.log.read_text())
    answer = chat(server)
    name = answer.headers["x-request-id"]
    httpx.post(f"{server.url}{CHAT}", content=b'{"forged\n12:00:00.000 ERROR: x')
    httpx.get(f"{server.url}/health")
    text = server.log.read_text()[logged:]
    ok, bad = [line for line in text.splitlines() if " INFO: POST " in line]
    assert re.search(
        rf"INFO: POST {CHAT} 200 ok .*first_token_seconds=\S+ prompt_tokens=\d+ "
        rf".*generated_tokens=4 .*\[[0-9a-f]{{32}}, {name}\]$",
        ok,
    ), ok
    assert "client_error error=invalid_json" in bad
    assert "forged" not in text
    assert "What is this" not in text
