"""Training batches drawn from a seed, and held-out ones of one kind each."""

from __future__ import annotations

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
from demo.training import eye
from demo.training.architecture import MAX_TILES
from demo.training.packing import Batch, Block, Encoder, Row, collate
from demo.training.pixels import cut

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
"""How often each kind is asked of a picture (where the scene allows it)."""

PAIR_ITEMS = (0.45, 0.4, 0.15)
"""How many items, at most, each of two pictures shows: one, two or three."""

TWO_PICTURES = {"compare": 8.0, "new_picture": 1.0, "single": 1.0}


def _one_picture_block(
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


def _two_picture_block(
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
    return _one_picture_block(rng, scenes[order[0]], order[0])


class Lessons(Dataset[Batch]):
    """Step ``i`` of a seed always gives the same batch.

    Every ``pair_every``-th batch shows two pictures per row, half as many rows.
    Scenes grow from one item to three over the first ``ramp`` steps.
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
            blocks: list[Block] = []
            room = self.tokens * (2 if pair else 1)
            while room > 0:
                made = (
                    _two_picture_block(rng, scenes)
                    if pair
                    else _one_picture_block(rng, scenes[0], 0)
                )
                if made is None:
                    room -= 1  # two pictures that hold the same things
                    continue
                block = self.encoder(made)
                room -= len(block.ids)
                if room >= 0 or not blocks:
                    blocks.append(block)
            tiles = [cut(render(scene)) for scene in scenes]
            rows.append(Row(scenes, tiles, blocks))
        return collate(rows, self.encoder, self.pad)


class Pictures(Dataset[Batch]):
    """Pictures with what the eye should see in them; step ``i`` is always the same."""

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
        seen = [eye.targets(*pair) for pair in zip(scenes, tiles, strict=True)]
        valid = np.array([[i < t.count for i in range(MAX_TILES)] for t in tiles])
        return {
            "pixels": torch.from_numpy(np.stack([t.pixels for t in tiles]))[:, None],
            "aspect_ratio_ids": torch.tensor([[t.ratio_id] for t in tiles]),
            "aspect_ratio_mask": torch.from_numpy(valid.astype(np.int64))[:, None],
            "targets": {
                key: torch.from_numpy(np.stack([each[key] for each in seen]))
                for key in seen[0]
            },
        }


def held_out(
    seed: int, tokenizer: PreTrainedTokenizerFast, kind: str, count: int, rows: int = 40
) -> list[Batch]:
    """Batches of one kind only, of conversations like those of the evaluation."""
    rng = np.random.default_rng((seed, 3))
    encoder, pad = Encoder(tokenizer), int(tokenizer.pad_token_id)
    batches = []
    for start in range(0, count, rows):
        made = []
        for _ in range(min(rows, count - start)):
            conversation, scenes = random_conversation(rng, kind)
            block = encoder(conversation)
            last = encoder.length(conversation.answer) + 1
            labels = [eye.NOTHING] * (len(block.ids) - last) + block.labels[-last:]
            tiles = [cut(render(scene)) for scene in scenes]
            made.append(Row(scenes, tiles, [Block(block.ids, labels, block.pictures)]))
        batches.append(collate(made, encoder, pad))
    return batches
