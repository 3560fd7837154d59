"""Tokenized conversations, packed into sequences with masks and targets.

Encoding a picture is expensive and a question short, so many conversations about the
same pictures share one sequence.  They do not attend to each other: the attention mask
is block diagonal and positions start at 0 in each, so that every conversation is
computed exactly as if it were alone.
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
from demo.training.architecture import MAX_TILES
from demo.training.pixels import Tiles
from demo.training.text_probes import (
    ItemWords,
    TextProbeTargets,
    phrase_targets,
    picture_contents,
)
from demo.training.tokenizer import BEGIN, HEADER, HEADER_END, IMAGE, TURN_END
from demo.training.vision_probes import IGNORED, probe_targets

Batch = dict[str, Any]


@dataclass(frozen=True)
class TokenizedConversation:
    """One conversation as tokens; only its answers have labels."""

    ids: list[int]
    labels: list[int]
    pictures: tuple[int, ...]


class Encoder:
    """Tokenizes conversations as the chat template and the tokenizer do."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.raw = tokenizer.backend_tokenizer
        self.image = int(tokenizer.convert_tokens_to_ids(IMAGE))
        self.begin = self._ids(BEGIN)
        self.words = ItemWords(tokenizer)

    def _ids(self, text: str) -> list[int]:
        return list(self.raw.encode(text, add_special_tokens=False).ids)

    def __call__(self, conversation: Conversation) -> TokenizedConversation:
        """Returns the tokens of a conversation, with labels on all its answers."""
        ids, labels = list(self.begin), [IGNORED] * len(self.begin)
        pictures: list[int] = []

        def add(text: str, learn: bool = False) -> None:
            new = self._ids(text)
            ids.extend(new)
            labels.extend(new if learn else [IGNORED] * len(new))

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
        return TokenizedConversation(ids, labels, tuple(pictures))

    def length(self, text: str) -> int:
        """Returns the number of tokens of a text."""
        return len(self._ids(text))

    def picture_mask(
        self, conversation: TokenizedConversation
    ) -> npt.NDArray[np.bool_]:
        """Returns which token attends to which picture: (tokens, pictures)."""
        length = len(conversation.ids)
        seen = np.zeros((length, len(conversation.pictures)), bool)
        spans = get_cross_attention_token_mask(conversation.ids, self.image)
        for index, (start, end) in enumerate(spans):
            seen[start : length if end == -1 else end, index] = True
        return seen


@dataclass(frozen=True)
class PackedSequence:
    """Pictures of one sequence of a batch and the conversations about them."""

    scenes: list[Scene]
    tiles: list[Tiles]
    conversations: list[TokenizedConversation]


def _add_probe_targets(
    targets: TextProbeTargets,
    index: int,
    start: int,
    sequence: PackedSequence,
    conversation: TokenizedConversation,
    seen_by: npt.NDArray[np.bool_],
    encoder: Encoder,
) -> None:
    """Adds the text probes' targets at the words of one conversation's questions.

    The first phrase's targets are also added at a picture that follows the question and
    at the token before the answer.

    Args:
        targets: Where to add them.
        index: The sequence in the batch.
        start: Where the conversation begins in the sequence.
        sequence: The sequence.
        conversation: The conversation.
        seen_by: Which token attends to which picture.
        encoder: Knows the words.
    """
    phrases: list[int] = []  # Ends of the phrases of the current turn.
    for at, token in enumerate(conversation.ids):
        if at and conversation.labels[at] == IGNORED != conversation.labels[at - 1]:
            phrases = []
        if conversation.labels[at] != IGNORED:
            continue
        any_scene = sequence.scenes[0]
        if encoder.words.meant(conversation.ids, at, any_scene) is not None:
            phrases.append(at)
        scenes = [
            sequence.scenes[conversation.pictures[int(i)]]
            for i in seen_by[at].nonzero()[0]
        ]
        if not scenes:
            continue
        here = (index, start + at)
        answered = (
            at + 1 < len(conversation.ids) and conversation.labels[at + 1] != IGNORED
        )
        asked = None
        if token == encoder.image and len(scenes) == 1:
            targets.images_at.append(here)
            targets.held.append(picture_contents(scenes[0]))
        if phrases and phrases[-1] == at:
            asked = at
        elif (token == encoder.image or answered) and phrases:
            asked = phrases[0]
        if asked is None:
            continue
        meant = [
            encoder.words.meant(conversation.ids, asked, scene) for scene in scenes
        ]
        if len(scenes) == 2:
            targets.both_at.append(here)
            targets.which.append(bool(meant[0]) + 2 * bool(meant[1]))
        elif meant[0] is not None:
            targets.at.append(here)
            targets.answers.append(phrase_targets(meant[0], scenes[0]))


def collate(sequences: list[PackedSequence], encoder: Encoder, pad: int) -> Batch:
    """Packs sequences into tensors, named as the model's inputs are."""
    count, media = len(sequences), len(sequences[0].tiles)
    length = max(
        sum(len(conversation.ids) for conversation in sequence.conversations)
        for sequence in sequences
    )
    ids = np.full((count, length), pad)
    labels = np.full((count, length), IGNORED)
    positions = np.zeros((count, length), np.int64)
    block_of = np.full((count, length), -1)
    cross = np.zeros((count, length, media, MAX_TILES), np.int64)
    targets = TextProbeTargets([], [], [], [], [], [])
    for index, sequence in enumerate(sequences):
        start = 0
        for number, conversation in enumerate(sequence.conversations):
            span = slice(start, start + len(conversation.ids))
            ids[index, span] = conversation.ids
            labels[index, span] = conversation.labels
            positions[index, span] = np.arange(len(conversation.ids))
            block_of[index, span] = number
            seen_by = encoder.picture_mask(conversation)
            _add_probe_targets(
                targets, index, start, sequence, conversation, seen_by, encoder
            )
            for column, picture in zip(seen_by.T, conversation.pictures, strict=True):
                used = sequence.tiles[picture].count
                cross[index, span, picture, :used] |= column[:, None]
            start = span.stop
    same = torch.from_numpy(block_of[:, :, None] == block_of[:, None, :])
    tiles = [tile for sequence in sequences for tile in sequence.tiles]
    seen = [
        probe_targets(scene, tile)
        for sequence in sequences
        for scene, tile in zip(sequence.scenes, sequence.tiles, strict=True)
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
        "notes": targets.tensors(),
        "input_ids": torch.from_numpy(ids),
        "labels": torch.from_numpy(labels),
        "position_ids": torch.from_numpy(positions),
        "attention_mask": (same & same.new_ones(length, length).tril())[:, None],
        "cross_attention_mask": torch.from_numpy(cross),
    }
