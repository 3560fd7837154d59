"""Exact match on held-out conversations, computed with torch during training.

An answer is right if each of its tokens, the end of turn included, is the model's first
choice given the ones before it.  That is equivalent to greedy generation of the whole
answer, and takes one forward pass instead of many.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import MllamaForConditionalGeneration, PreTrainedTokenizerFast

from demo.data.conversations import KINDS
from demo.training.batches import held_out
from demo.training.packing import Batch
from demo.training.pixels import normalize
from demo.training.vision_probes import IGNORED


def vision_states(
    model: MllamaForConditionalGeneration, batch: Batch, blind: bool = False
) -> torch.Tensor:
    """Returns the projected vision states.

    Args:
        model: The model.
        batch: Its inputs.
        blind: Whether to blank the pictures to gray.

    Returns:
        (sequences, pictures, tiles, 1 + patches, width).
    """
    mask = batch["aspect_ratio_mask"]
    pixels = batch["pixels"]
    if blind:
        pixels = torch.full_like(pixels, 128)
    encoded = model.model.vision_model(
        pixel_values=normalize(pixels, mask),
        aspect_ratio_ids=batch["aspect_ratio_ids"],
        aspect_ratio_mask=mask,
    ).last_hidden_state
    projected: torch.Tensor = model.model.multi_modal_projector(encoded)
    return projected


def answer_logits(
    model: MllamaForConditionalGeneration, batch: Batch, states: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the answer tokens' logits, the right tokens, and their sequences."""
    hidden = model.model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        cross_attention_states=states.flatten(0, 2),
        cross_attention_mask=batch["cross_attention_mask"],
        use_cache=False,
    ).last_hidden_state
    target = batch["labels"][:, 1:]
    asked = target != IGNORED
    logits = model.lm_head(hidden[:, :-1][asked])
    return logits.float(), target[asked], asked.nonzero()[:, 0]


def answer_loss(
    model: MllamaForConditionalGeneration, batch: Batch, states: torch.Tensor
) -> torch.Tensor:
    """Returns the mean cross entropy of the answers' tokens."""
    logits, target, _ = answer_logits(model, batch, states)
    return F.cross_entropy(logits, target)


def held_out_batches(
    seed: int, tokenizer: PreTrainedTokenizerFast, count: int
) -> dict[str, list[Batch]]:
    """Returns ``count`` conversations of every kind, not used for training."""
    return {kind: held_out(seed, tokenizer, kind, count) for kind in KINDS}


@torch.no_grad()
def held_out_accuracy(
    model: MllamaForConditionalGeneration,
    examination: dict[str, list[Batch]],
    blind: bool = False,
) -> dict[str, float]:
    """Returns the share of right answers by kind."""
    model.eval()
    scores = {}
    for kind, batches in examination.items():
        right = total = 0
        for batch in batches:
            states = vision_states(model, batch, blind)
            logits, target, row = answer_logits(model, batch, states)
            wrong = torch.zeros(len(batch["input_ids"]), dtype=torch.long)
            wrong.index_add_(0, row, (logits.argmax(-1) != target).long())
            right += int((wrong == 0).sum())
            total += len(wrong)
        scores[kind] = right / total
    model.train()
    return scores


def overall(scores: dict[str, float]) -> float:
    """Returns the mean over kinds, which are equally frequent."""
    return sum(scores.values()) / len(scores)
