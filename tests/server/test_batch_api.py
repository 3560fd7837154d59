"""OpenAI's SDK has a real server answer a batch, between requests of clients."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from mllama.demo_model import MODEL_PATH

PICTURES = sorted((MODEL_PATH.parent / "pictures").glob("*.png"))
END_SECONDS = 120


def request(path: Path) -> dict[str, Any]:
    data = base64.b64encode(path.read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 30}


def test_a_batch_has_the_answers_of_requests(client: openai.OpenAI) -> None:
    pytest.importorskip("python_multipart")
    lines = [
        {
            "custom_id": path.name,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": request(path),
        }
        for path in PICTURES
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
    answers = {
        path.name: client.chat.completions.create(model="", **request(path))
        for path in PICTURES
    }
    end = time.monotonic() + END_SECONDS
    while batch.status != "completed":
        assert batch.status in ("validating", "in_progress", "finalizing"), batch
        assert time.monotonic() < end, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == len(PICTURES)
    assert batch.output_file_id is not None
    found = client.files.content(batch.output_file_id).text.splitlines()
    for line in map(json.loads, found):
        body = line["response"]["body"]
        expected = answers[line["custom_id"]].choices[0].message.content
        assert body["choices"][0]["message"]["content"] == expected
    for each in client.files.list().data:
        client.files.delete(each.id)
