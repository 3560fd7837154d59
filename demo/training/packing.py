"""Conversations as tokens, packed many to a row, with masks and right answers.

A vision pass is expensive and a question short, so many conversations about the same
pictures share one row.  They do not see each other: the attention mask is block
diagonal and positions start anew in each, so every conversation is computed exactly
as if it stood alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.mllama.processing_mllama import (
    get_cross_attention_token_mask,
)

from demo.data.conversations import Conversation
from demo.data.scenes import Scene
from demo.training import eye
from demo.training.architecture import MAX_TILES
from demo.training.lookups import Notes, Words, found, holds
from demo.training.pixels import Tiles
from demo.training.tokenizer import BEGIN, HEADER, HEADER_END, IMAGE, TURN_END

Batch = dict[str, Any]


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
        self.words = Words(tokenizer)

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


def _take_notes(
    notes: Notes,
    index: int,
    start: int,
    row: Row,
    block: Block,
    seen_by: npt.NDArray[np.bool_],
    encoder: Encoder,
) -> None:
    """Note what the words of the questions mean in the pictures that they see.

    The first phrase's meaning is also noted at a picture that follows the question,
    and at the token that the answer follows.
    """
    phrases: list[int] = []  # ends of the phrases of the current turn
    for at, token in enumerate(block.ids):
        if at and block.labels[at] == eye.NOTHING != block.labels[at - 1]:
            phrases = []
        if block.labels[at] != eye.NOTHING:
            continue
        any_scene = row.scenes[0]
        if encoder.words.meant(block.ids, at, any_scene) is not None:
            phrases.append(at)
        scenes = [row.scenes[block.pictures[int(i)]] for i in seen_by[at].nonzero()[0]]
        if not scenes:
            continue
        here = (index, start + at)
        answered = at + 1 < len(block.ids) and block.labels[at + 1] != eye.NOTHING
        asked = None
        if token == encoder.image and len(scenes) == 1:
            notes.images_at.append(here)
            notes.held.append(holds(scenes[0]))
        if phrases and phrases[-1] == at:
            asked = at
        elif (token == encoder.image or answered) and phrases:
            asked = phrases[0]
        if asked is None:
            continue
        meant = [encoder.words.meant(block.ids, asked, scene) for scene in scenes]
        if len(scenes) == 2:
            notes.both_at.append(here)
            notes.which.append(bool(meant[0]) + 2 * bool(meant[1]))
        elif meant[0] is not None:
            notes.at.append(here)
            notes.answers.append(found(meant[0], scenes[0]))


def collate(rows: list[Row], encoder: Encoder, pad: int) -> Batch:
    """Pack rows into tensors named as the model's inputs are."""
    count, media = len(rows), len(rows[0].tiles)
    length = max(sum(len(block.ids) for block in row.blocks) for row in rows)
    ids = np.full((count, length), pad)
    labels = np.full((count, length), eye.NOTHING)
    positions = np.zeros((count, length), np.int64)
    block_of = np.full((count, length), -1)
    cross = np.zeros((count, length, media, MAX_TILES), np.int64)
    notes = Notes([], [], [], [], [], [])
    for index, row in enumerate(rows):
        start = 0
        for number, block in enumerate(row.blocks):
            span = slice(start, start + len(block.ids))
            ids[index, span], labels[index, span] = block.ids, block.labels
            positions[index, span] = np.arange(len(block.ids))
            block_of[index, span] = number
            seen_by = encoder.rows_of_pictures(block)
            _take_notes(notes, index, start, row, block, seen_by, encoder)
            for column, picture in zip(seen_by.T, block.pictures, strict=True):
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
        "notes": notes.tensors(),
        "input_ids": torch.from_numpy(ids),
        "labels": torch.from_numpy(labels),
        "position_ids": torch.from_numpy(positions),
        "attention_mask": (same & same.new_ones(length, length).tril())[:, None],
        "cross_attention_mask": torch.from_numpy(cross),
    }
