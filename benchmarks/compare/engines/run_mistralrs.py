"""mistral.rs, quantized to Q4K as it loads: `run_mistralrs.py CHECKPOINT N`.

Prompts come already rendered.  N is the number of threads, which its thread pool takes
from RAYON_NUM_THREADS.
"""

from __future__ import annotations

import atexit
import base64
import os
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mistralrs
from protocol import answer_requests

_AS_IT_IS = """\
{%- for message in messages -%}
  {%- if message.content is string -%}{{- message.content -}}
  {%- else -%}
    {%- for part in message.content if part.type == "text" -%}
      {{- part.text -}}
    {%- endfor -%}
  {%- endif -%}
{%- endfor -%}"""
"""A chat template that adds nothing: questions come rendered, so that their length is
the same as for the other engines."""


def load() -> dict[str, Any]:
    """Loads the checkpoint and returns the functions that requests name."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    template = Path(folder) / "template.jinja"
    template.write_text(_AS_IT_IS)
    runner = mistralrs.Runner(
        which=mistralrs.Which.MultimodalPlain(
            model_id=sys.argv[1], arch=mistralrs.MultimodalArchitecture.VLlama
        ),
        in_situ_quant="Q4K",
        prefix_cache_n=0,
        jinja_explicit=str(template),
    )

    def ask(prompt: str, images: list[str], new_tokens: int) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _data_url(path)}}
            for path in images
        ]
        parts.append({"type": "text", "text": prompt})
        started = time.perf_counter()
        answer = runner.send_chat_completion_request(
            mistralrs.ChatCompletionRequest(
                model="default",
                messages=[{"role": "user", "content": parts if images else prompt}],
                max_tokens=new_tokens,
                temperature=0.0,
                top_k=1,
            )
        )
        elapsed = time.perf_counter() - started
        usage = answer.usage
        if usage.completion_tokens != new_tokens:
            raise RuntimeError(f"{usage.completion_tokens} tokens, not {new_tokens}")
        later = usage.total_completion_time_sec if new_tokens > 1 else 0.0
        return {
            "first": elapsed - later,
            "per_token": later / (new_tokens - 1) if new_tokens > 1 else None,
            "prompt_tokens": usage.prompt_tokens,
        }

    def about() -> dict[str, Any]:
        return {
            "mistralrs": version("mistralrs"),
            "threads": int(os.environ["RAYON_NUM_THREADS"]),
        }

    return {"ask": ask, "about": about}


def _data_url(path: str) -> str:
    content = base64.b64encode(Path(path).read_bytes()).decode()
    return f"data:image/png;base64,{content}"


if __name__ == "__main__":
    answer_requests(load)
