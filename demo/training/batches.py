"""Training batches drawn from a seed, and held-out batches of one kind each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from demo.data.conversations import (
    Conversation,
    compare,
    follow_up,
    new_picture,
    random_conversation,
    single,
    small_talk,
)
from demo.data.drawing import render
from demo.data.scenes import Scene, random_scene
from demo.training.architecture import MAX_TILES
from demo.training.packing import (
    Batch,
    Encoder,
    PackedSequence,
    TokenizedConversation,
    collate,
)
from demo.training.pixels import cut
from demo.training.vision_probes import IGNORED, probe_targets

ONE_PICTURE = {
    "shape": 1.2,
    "color": 0.8,
    "count": 1.4,
    "where": 1.6,
    "relation": 1.8,
    "beside": 1.8,
    "digit": 2.0,
    "exists": 0.8,
    "describe": 1.7,
    "follow_up": 0.6,
    "small_talk": 0.06,
}
"""Weight of each kind of conversation about one picture."""

PAIR_ITEMS = (0.45, 0.4, 0.15)
"""Shares of pairs of pictures that show at most one, two or three items each."""

TWO_PICTURES = {"compare": 8.0, "new_picture": 1.0, "single": 1.0}
"""Weight of each kind of conversation about two pictures."""


def _about_one_picture(
    rng: np.random.Generator, scene: Scene, picture: int
) -> Conversation:
    kinds = list(ONE_PICTURE)
    weights = np.array(list(ONE_PICTURE.values()))
    while True:
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        made: Conversation | None
        if kind == "follow_up":
            made = follow_up(rng, scene, picture)
        elif kind == "small_talk":
            made = small_talk(rng)
        else:
            made = single(rng, scene, kind, picture)
        if made is not None:
            return made


def _about_two_pictures(
    rng: np.random.Generator, scenes: list[Scene]
) -> Conversation | None:
    kinds = list(TWO_PICTURES)
    weights = np.array(list(TWO_PICTURES.values()))
    kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    order = [int(index) for index in rng.permutation(2)]
    if kind == "compare":
        return compare(rng, scenes, *order)
    if kind == "new_picture":
        return new_picture(rng, scenes, *order)
    return _about_one_picture(rng, scenes[order[0]], order[0])


class ConversationBatches(Dataset[Batch]):
    """Batches of packed conversations; step ``i`` of a seed is always the same.

    Args:
        seed: Of the scenes and questions.
        tokenizer: The model's.
        rows: Sequences of a batch; half as many if each shows two pictures.
        tokens: Most tokens of a sequence for each of its pictures.
        pair_every: Every so many batches, sequences show two pictures; 0 is never.
        ramp: Steps in which scenes grow from one item to three.
        steps: Batches in all.
    """

    def __init__(
        self,
        seed: int,
        tokenizer: PreTrainedTokenizerFast,
        *,
        rows: int = 32,
        tokens: int = 200,
        pair_every: int = 2,
        ramp: int = 0,
        steps: int = 1_000_000,
    ) -> None:
        self.seed, self.rows, self.tokens = seed, rows, tokens
        self.pair_every, self.ramp, self.steps = pair_every, ramp, steps
        self.encoder = Encoder(tokenizer)
        self.pad = int(tokenizer.pad_token_id)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, 2, step))
        pair = bool(self.pair_every) and step % self.pair_every == self.pair_every - 1
        most = 3 if step >= self.ramp else 1 + (2 * step) // self.ramp
        rows = []
        for _ in range(self.rows // 2 if pair else self.rows):
            items = int(rng.choice([1, 2, 3], p=PAIR_ITEMS)) if pair else most
            items = min(items, most)
            scenes = [random_scene(rng, max_items=items) for _ in range(1 + pair)]
            conversations: list[TokenizedConversation] = []
            room = self.tokens * (2 if pair else 1)
            while room > 0:
                made = (
                    _about_two_pictures(rng, scenes)
                    if pair
                    else _about_one_picture(rng, scenes[0], 0)
                )
                if made is None:
                    room -= 1  # Both pictures show the same.
                    continue
                tokenized = self.encoder(made)
                room -= len(tokenized.ids)
                if room >= 0 or not conversations:
                    conversations.append(tokenized)
            tiles = [cut(render(scene)) for scene in scenes]
            rows.append(PackedSequence(scenes, tiles, conversations))
        return collate(rows, self.encoder, self.pad)


class PictureBatches(Dataset[Batch]):
    """Batches of pictures for the vision probes; step ``i`` of a seed is the same.

    Args:
        seed: Of the scenes.
        rows: Pictures of a batch.
        ramp: Steps in which scenes grow from one item to three.
        steps: Batches in all.
        small: Whether all pictures have one tile.
    """

    def __init__(
        self, seed: int, rows: int, ramp: int, steps: int, small: bool = False
    ) -> None:
        self.seed, self.rows, self.ramp, self.steps = seed, rows, ramp, steps
        self.small = small

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, 0 if self.small else 1, step))
        most = 3 if step >= self.ramp else 1 + (2 * step) // self.ramp
        layout = (1, 1) if self.small else None
        scenes = [
            random_scene(rng, max_items=most, layout=layout) for _ in range(self.rows)
        ]
        tiles = [cut(render(scene)) for scene in scenes]
        targets = [probe_targets(*pair) for pair in zip(scenes, tiles, strict=True)]
        valid = np.array([[i < t.count for i in range(MAX_TILES)] for t in tiles])
        return {
            "pixels": torch.from_numpy(np.stack([t.pixels for t in tiles]))[:, None],
            "aspect_ratio_ids": torch.tensor([[t.ratio_id] for t in tiles]),
            "aspect_ratio_mask": torch.from_numpy(valid.astype(np.int64))[:, None],
            "targets": {
                key: torch.from_numpy(np.stack([each[key] for each in targets]))
                for key in targets[0]
            },
        }


def held_out(
    seed: int, tokenizer: PreTrainedTokenizerFast, kind: str, count: int, rows: int = 40
) -> list[Batch]:
    """Returns batches of one kind of conversation, as the evaluation draws them."""
    rng = np.random.default_rng((seed, 3))
    encoder, pad = Encoder(tokenizer), int(tokenizer.pad_token_id)
    batches = []
    for start in range(0, count, rows):
        made = []
        for _ in range(min(rows, count - start)):
            conversation, scenes = random_conversation(rng, kind)
            tokenized = encoder(conversation)
            last = encoder.length(conversation.answer) + 1
            labels = [IGNORED] * (len(tokenized.ids) - last)
            labels += tokenized.labels[-last:]
            tiles = [cut(render(scene)) for scene in scenes]
            only_last = replace(tokenized, labels=labels)
            made.append(PackedSequence(scenes, tiles, [only_last]))
        batches.append(collate(made, encoder, pad))
    return batches
