"""transformers in float32, as its users install it: `run_transformers.py CHECKPOINT N`.

N is the number of threads.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from protocol import answer_requests
from transformers import (
    AutoTokenizer,
    MllamaForConditionalGeneration,
    MllamaProcessor,
)
from transformers.models.mllama.image_processing_pil_mllama import (
    MllamaImageProcessorPil,
)


class Stamps:
    """A streamer that notes when each token comes."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: Any) -> None:
        """Called with the prompt, then with each token."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Called after the last token."""


class Spent:
    """Seconds spent in some modules since the last ``reset``."""

    def __init__(self, modules: list[Any]) -> None:
        self.reset()
        for module in modules:
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(self._leave)

    def reset(self) -> None:
        """Sets the time to zero."""
        self.seconds = 0.0

    def _enter(self, *_: Any) -> None:
        self._entered = time.perf_counter()

    def _leave(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._entered


def load() -> dict[str, Any]:
    """Loads the checkpoint and returns the functions that requests name."""
    checkpoint, threads = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(threads)
    model: Any = MllamaForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    model.generation_config.eos_token_id = None
    processor = MllamaProcessor(
        image_processor=MllamaImageProcessorPil.from_pretrained(checkpoint),
        tokenizer=AutoTokenizer.from_pretrained(checkpoint),
        chat_template=(checkpoint / "chat_template.jinja").read_text(),
    )
    inner = model.model
    layers = inner.language_model.layers
    crossed = [
        layers[i].cross_attn for i in model.config.text_config.cross_attention_layers
    ]
    # Pixels to the keys and values of all cross-attention layers.
    image_side = Spent(
        [inner.vision_model, inner.multi_modal_projector]
        + [part for each in crossed for part in (each.k_proj, each.v_proj, each.k_norm)]
    )

    @torch.inference_mode()
    def ask(prompt: str, images: list[str], new_tokens: int) -> dict[str, Any]:
        pictures = [Image.open(path).convert("RGB") for path in images]
        parts = [{"type": "image"} for _ in pictures] + [
            {"type": "text", "text": prompt}
        ]
        messages = [{"role": "user", "content": parts if pictures else prompt}]
        image_side.reset()
        stamps = Stamps()
        started = time.perf_counter()
        text = processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        inputs = processor(
            images=[pictures] if pictures else None,
            text=text,
            add_special_tokens=False,
            return_tensors="pt",
        )
        inputs.pop("num_tiles", None)
        model.generate(
            **inputs,
            do_sample=False,
            temperature=None,
            top_p=None,
            max_new_tokens=new_tokens,
            streamer=stamps,
        )
        first, *_, last = stamps.times[1:] + stamps.times[-1:]
        return {
            "first": first - started,
            "per_token": (last - first) / (new_tokens - 1) if new_tokens > 1 else None,
            "prompt_tokens": int(inputs["input_ids"].shape[1]),
            "vision": image_side.seconds if pictures else None,
        }

    def about() -> dict[str, Any]:
        return {
            "transformers": version("transformers"),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
        }

    return {"ask": ask, "about": about}


if __name__ == "__main__":
    answer_requests(load)
