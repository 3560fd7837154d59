"""Training batches: pictures, what the eye should see, and packed conversations.

A vision pass is expensive and a question short, so many conversations about the same
pictures are packed into one row.  They do not see each other: the attention mask is
block diagonal and positions start anew in each, so every conversation is computed
exactly as if it stood alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast
from transformers.models.mllama.processing_mllama import (
    get_cross_attention_token_mask,
)

from . import eye
from .architecture import MAX_TILES
from .conversations import (
    Conversation,
    compare,
    follow_up,
    new_picture,
    random_conversation,
    single,
    small_talk,
)
from .drawing import render
from .pixels import Tiles, cut
from .scenes import Scene, random_scene
from .tokenizer import BEGIN, HEADER, HEADER_END, IMAGE, TURN_END

Batch = dict[str, Any]

ONE_PICTURE = {
    "shape": 1.0,
    "colour": 0.8,
    "count": 1.6,
    "where": 1.2,
    "relation": 1.4,
    "beside": 1.6,
    "digit": 1.6,
    "exists": 0.8,
    "describe": 1.7,
    "follow_up": 0.6,
    "small_talk": 0.06,
}
"""How often each kind is asked of a picture (where the scene allows it)."""

TWO_PICTURES = {"compare": 6.0, "new_picture": 2.0, "single": 2.0}


@dataclass(frozen=True)
class Block:
    """One conversation as tokens: answers are the only positions with labels."""

    ids: list[int]
    labels: list[int]
    pictures: tuple[int, ...]


class Encoder:
    """Conversations to tokens, as the chat template and the tokenizer make them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.raw = tokenizer.backend_tokenizer
        self.image = int(tokenizer.convert_tokens_to_ids(IMAGE))
        self.begin = self._ids(BEGIN)

    def _ids(self, text: str) -> list[int]:
        return list(self.raw.encode(text, add_special_tokens=False).ids)

    def __call__(self, conversation: Conversation) -> Block:
        """Tokens of the whole conversation, labels on all its answers."""
        ids, labels = list(self.begin), [eye.NOTHING] * len(self.begin)
        pictures: list[int] = []

        def add(text: str, learn: bool = False) -> None:
            new = self._ids(text)
            ids.extend(new)
            labels.extend(new if learn else [eye.NOTHING] * len(new))

        if conversation.system is not None:
            head = f"{HEADER}system{HEADER_END}\n\n"
            add(f"{head}{conversation.system}{TURN_END}")
        for turn in conversation.turns:
            shown = IMAGE * len(turn.pictures)
            parts = (shown, turn.question)
            text = "".join(parts if turn.pictures_first else parts[::-1])
            add(f"{HEADER}user{HEADER_END}\n\n{text}{TURN_END}")
            add(f"{HEADER}assistant{HEADER_END}\n\n")
            add(f"{turn.answer}{TURN_END}", learn=True)
            pictures += turn.pictures
        return Block(ids, labels, tuple(pictures))

    def length(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self._ids(text))

    def rows_of_pictures(self, block: Block) -> npt.NDArray[np.bool_]:
        """(tokens, pictures of the block): which row attends to which picture."""
        length = len(block.ids)
        seen = np.zeros((length, len(block.pictures)), bool)
        spans = get_cross_attention_token_mask(block.ids, self.image)
        for index, (start, end) in enumerate(spans):
            seen[start : length if end == -1 else end, index] = True
        return seen


@dataclass(frozen=True)
class Row:
    """Pictures of one row of a batch and the conversations about them."""

    scenes: list[Scene]
    tiles: list[Tiles]
    blocks: list[Block]


def collate(rows: list[Row], encoder: Encoder, pad: int) -> Batch:
    """Pack rows into tensors named as the model's inputs are."""
    count, media = len(rows), len(rows[0].tiles)
    length = max(sum(len(block.ids) for block in row.blocks) for row in rows)
    ids = np.full((count, length), pad)
    labels = np.full((count, length), eye.NOTHING)
    positions = np.zeros((count, length), np.int64)
    block_of = np.full((count, length), -1)
    cross = np.zeros((count, length, media, MAX_TILES), np.int64)
    for index, row in enumerate(rows):
        start = 0
        for number, block in enumerate(row.blocks):
            span = slice(start, start + len(block.ids))
            ids[index, span], labels[index, span] = block.ids, block.labels
            positions[index, span] = np.arange(len(block.ids))
            block_of[index, span] = number
            for column, picture in zip(
                encoder.rows_of_pictures(block).T, block.pictures, strict=True
            ):
                used = row.tiles[picture].count
                cross[index, span, picture, :used] |= column[:, None]
            start = span.stop
    same = torch.from_numpy(block_of[:, :, None] == block_of[:, None, :])
    tiles = [tile for row in rows for tile in row.tiles]
    seen = [
        eye.targets(scene, tile)
        for row in rows
        for scene, tile in zip(row.scenes, row.tiles, strict=True)
    ]
    valid = np.array([[i < t.count for i in range(MAX_TILES)] for t in tiles])
    return {
        "pixels": torch.from_numpy(np.stack([t.pixels for t in tiles])).unflatten(
            0, (count, media)
        ),
        "aspect_ratio_ids": torch.tensor([t.ratio_id for t in tiles]).view(
            count, media
        ),
        "aspect_ratio_mask": torch.from_numpy(valid.astype(np.int64)).view(
            count, media, MAX_TILES
        ),
        "targets": {
            key: torch.from_numpy(np.stack([each[key] for each in seen]))
            for key in seen[0]
        },
        "input_ids": torch.from_numpy(ids),
        "labels": torch.from_numpy(labels),
        "position_ids": torch.from_numpy(positions),
        "attention_mask": (same & same.new_ones(length, length).tril())[:, None],
        "cross_attention_mask": torch.from_numpy(cross),
    }


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
    Scenes grow from one item to four over the first ``ramp`` steps.
    """

    def __init__(
        self,
        seed: int,
        tokenizer: PreTrainedTokenizerFast,
        *,
        rows: int = 32,
        tokens: int = 200,
        pair_every: int = 4,
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
        most = 4 if step >= self.ramp else 2 + (2 * step) // self.ramp
        rows = []
        for _ in range(self.rows // 2 if pair else self.rows):
            items = min(most, 2 if rng.random() < 0.7 else 4) if pair else most
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
        most = 4 if step >= self.ramp else 1 + (3 * step) // self.ramp
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
