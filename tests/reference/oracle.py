"""Answers of transformers with Meta's semantics patched in, as NumPy arrays.

The patch is ``demo.training.meta_semantics.use_meta_semantics``: tokens before every
image get exactly zero from cross-attention, and the recorded vision states are the
layers' inputs.  Everything else is transformers unchanged.

An implementation must reproduce the following rules of transformers 5.12, which
``test_reference.py`` confirms:

* *Images that a token attends to.*  A token attends to the run of adjacent
  ``<|image|>`` tokens that most recently precedes it, and to no earlier run.  Within a
  run, the mask starts at each image's own token: of adjacent images p1 and p2, the
  token p1 attends to image 1 only, the token p2 and all text after it attend to both.
  Anything between two image tokens, even one space, ends the run.
* *Decoding.*  ``_update_model_kwargs_for_generation`` repeats the last row of the mask
  for every new token, so generated tokens attend to the images of the last prompt
  token: the last run, or none in a text-only request.  The vision encoder runs once;
  ``prepare_inputs_for_generation`` drops the pixels after the first step, and K and V
  come from the cache.
* *Tokens without an image.*  transformers zeroes the mask of such tokens, which would
  then attend to all images and padding tiles of their sequence, and multiplies only the
  MLP by ``full_text_row_masked_out_mask``; with the patch, the layer is the identity.
  A text-only request skips the cross-attention layers, which is the same, so such a
  request may share a batch with requests that have images.
* *Padding tiles.*  In the vision encoder, only pad-to-pad pairs are masked (``m @
  m^T``), where the patches that fill a tile up to a multiple of 8 count as padding
  too: real patches attend to all padding.  Its states start as zeros after the first
  norm (filling patches), or as embeddings and the class token (padding tiles: black
  pixels *after* normalization, i.e. exact zeros).  In cross-attention, padding tiles
  are masked and filling patches are removed.
* *Aspect ratio id 0* and a mask with only the first tile set stand for an absent image
  in a batch; its states are computed, and no token attends to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    MllamaForConditionalGeneration,
    MllamaProcessor,
)
from transformers.models.mllama.image_processing_pil_mllama import (
    MllamaImageProcessorPil,
)
from transformers.utils import logging

from demo.training.meta_semantics import use_meta_semantics

from .cases import Message, images_of


@dataclass(frozen=True)
class Prompt:
    """The model's inputs of a request.

    ``cross_attention_mask`` is [tokens, images, max tiles] of 0 and 1; it and the
    image arrays are None in a text-only request.
    """

    text: str
    token_ids: np.ndarray
    tensors: dict[str, torch.Tensor]
    cross_attention_mask: np.ndarray | None
    num_tiles: tuple[int, ...]


@dataclass(frozen=True)
class VisionStages:
    """The states of one image, [max tiles, patches + 1, width], with padding tiles.

    They omit the patches that fill a tile up to a multiple of 8.  ``valid`` is the
    number of real tiles, which precede the padding tiles.
    """

    valid: int
    embedded: np.ndarray  # patches, pre-tile embedding, class token, positions
    normed: np.ndarray  # after layernorm_pre: the first layer's input
    layers: tuple[np.ndarray, ...]  # each local layer's output
    before_global: np.ndarray  # after layernorm_post and the post-tile embedding
    after_global: np.ndarray
    intermediate: np.ndarray  # [..., width * recorded]: the recorded one varies fastest
    output: np.ndarray  # after_global and intermediate, concatenated
    projected: np.ndarray  # [..., text width]: the cross-attention states


@dataclass(frozen=True)
class Decoded:
    """Greedily decoded tokens; ``token_ids[i]`` is chosen by ``logits[i]``.

    ``logits[0]`` is the last row of prefill, the others belong to decode steps.
    """

    token_ids: list[int]
    logits: np.ndarray


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().numpy()


class Reference:
    """A checkpoint in transformers, in float32 on the CPU."""

    def __init__(
        self,
        checkpoint: Path,
        *,
        attention: Literal["sdpa", "eager"] = "sdpa",
        patched: bool = True,
    ) -> None:
        self.checkpoint = checkpoint
        logging.disable_progress_bar()
        model = MllamaForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation=attention
        )
        self.model: Any = model.eval()
        if patched:
            use_meta_semantics(self.model)
        # Decoding continues after end tokens, so that all cases have the same steps.
        self.model.generation_config.eos_token_id = None
        self.processor = load_processor(checkpoint)

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """Renders and tokenizes messages with ``MllamaProcessor``."""
        images = images_of(list(messages))
        text = self.processor.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        features = self.processor(
            images=[images] if images else None,
            text=text,
            add_special_tokens=False,  # the template begins with <|begin_of_text|>
            return_tensors="pt",
        )
        mask = features.get("cross_attention_mask")
        ratio_mask = features.get("aspect_ratio_mask")
        tiles = () if ratio_mask is None else ratio_mask[0].sum(dim=-1).tolist()
        return Prompt(
            text=text,
            token_ids=features["input_ids"][0].numpy(),
            tensors=dict(features),
            cross_attention_mask=None if mask is None else mask[0].numpy(),
            num_tiles=tuple(tiles),
        )

    @torch.inference_mode()
    def prefill(self, messages: Sequence[Message]) -> np.ndarray:
        """Returns the logits at all positions of the prompt, [tokens, vocabulary]."""
        return self.logits(self.prompt(messages).tensors)

    @torch.inference_mode()
    def logits(self, tensors: dict[str, torch.Tensor]) -> np.ndarray:
        """Returns the logits at all positions of the first sequence of model inputs."""
        return _numpy(self.model(**tensors, use_cache=False).logits[0])

    @torch.inference_mode()
    def decode(self, messages: Sequence[Message], steps: int = 8) -> Decoded:
        """Decodes greedily with ``generate``: prefill and ``steps`` decode steps.

        The result has ``steps + 1`` tokens, of which the first comes from prefill.
        """
        out = self.model.generate(
            **self.prompt(messages).tensors,
            do_sample=False,
            temperature=None,
            top_p=None,
            max_new_tokens=steps + 1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return Decoded(
            token_ids=out.sequences[0, -(steps + 1) :].tolist(),
            logits=_numpy(torch.cat(out.logits)),
        )

    @torch.inference_mode()
    def vision(self, images: Sequence[Image.Image]) -> list[VisionStages]:
        """Returns every stage of the vision encoder and projector, for each image."""
        return [self._vision(image) for image in images]

    @torch.inference_mode()
    def cross_kv(
        self, images: Sequence[Image.Image]
    ) -> list[dict[int, tuple[np.ndarray, np.ndarray]]]:
        """Returns K (after k_norm) and V of each cross-attention layer, for each image.

        The keys are layers; each is [valid tiles * (patches + 1), kv heads, head dim].
        """
        text = self.model.config.text_config
        head_width = text.hidden_size // text.num_attention_heads
        shape = (-1, text.num_key_value_heads, head_width)
        result = []
        for image in images:
            stages = self._vision(image)
            states = torch.from_numpy(stages.projected[: stages.valid])
            layers = {}
            for index in text.cross_attention_layers:
                attention = self.model.model.language_model.layers[index].cross_attn
                keys = attention.k_norm(attention.k_proj(states).reshape(shape))
                values = attention.v_proj(states).reshape(shape)
                layers[index] = (_numpy(keys), _numpy(values))
            result.append(layers)
        return result

    def _vision(self, image: Image.Image) -> VisionStages:
        inputs = self.processor.image_processor([[image]], return_tensors="pt")
        valid = int(inputs.pop("num_tiles")[0][0])
        tower = self.model.model.vision_model
        max_tiles, patches = tower.max_num_tiles, tower.num_patches
        seen: dict[str, torch.Tensor] = {}

        def record(name: str) -> Callable[..., None]:
            def hook(module: Any, args: Any, output: Any) -> None:
                state = getattr(output, "last_hidden_state", output)
                seen[name] = state.reshape(max_tiles, -1, state.shape[-1])[:, :patches]

            return hook

        watched = {
            "embedded": tower.gated_positional_embedding,
            "normed": tower.layernorm_pre,
            "before_global": tower.post_tile_positional_embedding,
            "after_global": tower.global_transformer,
        }
        local = {f"layer {i}": m for i, m in enumerate(tower.transformer.layers)}
        handles = [
            module.register_forward_hook(record(name))
            for name, module in (watched | local).items()
        ]
        try:
            output = tower(**inputs).last_hidden_state[0, 0]
        finally:
            for handle in handles:
                handle.remove()
        return VisionStages(
            valid=valid,
            layers=tuple(_numpy(seen[name]) for name in local),
            intermediate=_numpy(output[..., tower.hidden_size :]),
            output=_numpy(output),
            projected=_numpy(self.model.model.multi_modal_projector(output)),
            **{name: _numpy(seen[name]) for name in watched},
        )


def load_processor(checkpoint: Path) -> MllamaProcessor:
    """Loads a checkpoint's processor, with the image processor that needs no torch.

    ``MllamaProcessor.from_pretrained`` selects this one too if torchvision is absent,
    and another one (whose resizing differs in the last digits) if it is installed.
    """
    image_processor = MllamaImageProcessorPil.from_pretrained(checkpoint)
    return MllamaProcessor(
        image_processor=image_processor,
        tokenizer=AutoTokenizer.from_pretrained(checkpoint),
        chat_template=_chat_template(checkpoint),
    )


def _chat_template(checkpoint: Path) -> str:
    """Returns the chat template from the file in which transformers finds it."""
    found: Any = MllamaProcessor.from_pretrained(checkpoint)
    template = found.chat_template or found.tokenizer.chat_template
    if not isinstance(template, str):
        raise ValueError(f"{checkpoint} has no chat template")
    return template


@cache
def reference(checkpoint: Path, *, patched: bool = True) -> Reference:
    """Returns the oracle of a checkpoint, loaded once per process."""
    return Reference(checkpoint, patched=patched)
