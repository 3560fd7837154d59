"""The vocabulary of a file that has ggml's keys only, checked.

The vocabulary and the merges are in the file, how text is cut before merging is named
by ``tokenizer.ggml.pre`` alone: it must be Llama 3's way, the only one that this model
has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gguf import TokenType
from tokenizers import pre_tokenizers

from mllama.errors import CheckpointError, quoted
from mllama.weights.gguf.file import GgufFile
from mllama.weights.ollama.ggml_config import vocabulary_rows
from mllama.weights.ollama.ggml_keys import GgmlKeys

BEGIN: Final = "<|begin_of_text|>"
IMAGE: Final = "<|image|>"
PAD: Final = "<|finetune_right_pad_id|>"

_FORMAT = (BEGIN, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", IMAGE)
"""Tokens without which no conversation can be written."""

ENDS: Final = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
"""What ends an answer in Meta's prompt format: a document, a tool call, a turn."""

_LLAMA_3 = ("llama-bpe", "llama3", "llama-v3", "default")
"""Names of Llama 3's way of cutting text.  Ollama's converter wrote ``default`` where
it did not recognize a tokenizer; its engine cut the text of this model as Llama 3's
in any case."""

_FILLER = re.compile(r"\[PAD\d+\]")
"""What Ollama's converter filled a vocabulary with; text never becomes these."""

_BY_HAND = (
    "give a directory with the model's tokenizer as --model-path and this file as "
    "--weight-path"
)


@dataclass(frozen=True)
class GgmlVocabulary:
    """The vocabulary of a file, checked.

    Attributes:
        tokens: By id, bytes as byte-level BPE writes them.
        added: Ids of tokens that are cut out of the text before anything else.
        special: Of these, the ones that are no text.
        merges: Pairs, the first to be merged first.
        image_token_id: Of ``<|image|>``, which may be ``len(tokens)``.
        bos_token_id: What a prompt begins with.
        adds_bos: Whether the tokenizer puts it there.
        eos_token_id: The one that stands for all that end an answer.
        eos_token_ids: All that end an answer.
        pad_token_id: What fills a batch; the end if there is none for that.
    """

    tokens: list[str]
    added: list[int]
    special: set[int]
    merges: list[tuple[str, str]]
    image_token_id: int
    bos_token_id: int
    adds_bos: bool
    eos_token_id: int
    eos_token_ids: list[int]
    pad_token_id: int


def read_vocabulary(file: GgufFile) -> GgmlVocabulary:
    """Reads ``tokenizer.ggml.*``.

    Raises:
        CheckpointError: If keys are missing, contradict each other or the embedding, or
            are of another kind of tokenizer.
    """
    keys = GgmlKeys(file)
    _require_llama_3(file, keys)
    tokens = keys.strings("tokenizer.ggml.tokens")
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(t for i, t in enumerate(tokens) if ids[t] != i)
        raise CheckpointError(f"{file.path}: the vocabulary has {quoted(twice)} twice")
    image = _image_token(file, ids)
    kinds = keys.integers("tokenizer.ggml.token_type")
    if len(kinds) != len(tokens):
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.token_type is of {len(kinds)} tokens, but "
            f"tokenizer.ggml.tokens has {len(tokens)}"
        )
    special = {i for i, kind in enumerate(kinds) if kind == TokenType.CONTROL}
    added = [
        i
        for i, kind in enumerate(kinds)
        if kind == TokenType.CONTROL
        or (kind == TokenType.USER_DEFINED and not _FILLER.fullmatch(tokens[i]))
    ]
    _require_format(file, ids, special)
    if any(not tokens[i] for i in added):
        raise CheckpointError(f"{file.path}: the vocabulary has a special token ''")
    last = len(tokens) - 1
    eos, ends = _ends(file, keys, ids)
    return GgmlVocabulary(
        tokens=tokens,
        added=added,
        special=special,
        merges=_merges(file, keys, ids),
        image_token_id=image,
        bos_token_id=keys.integer(
            "tokenizer.ggml.bos_token_id", ids.get(BEGIN), least=0, most=last
        ),
        adds_bos=keys.flag("tokenizer.ggml.add_bos_token", True),
        eos_token_id=eos,
        eos_token_ids=ends,
        pad_token_id=keys.integer(
            "tokenizer.ggml.padding_token_id", ids.get(PAD, eos), least=0, most=last
        ),
    )


def _require_llama_3(file: GgufFile, keys: GgmlKeys) -> None:
    model = keys.string("tokenizer.ggml.model")
    if model != "gpt2":
        raise CheckpointError(
            f"{file.path} has a tokenizer of the kind {quoted(model)}; only byte-level "
            f"BPE, 'gpt2', is read: {_BY_HAND}"
        )
    cut = keys.string("tokenizer.ggml.pre", _LLAMA_3[0])
    if cut not in _LLAMA_3:
        raise CheckpointError(
            f"{file.path} cuts text as {quoted(cut)}; only Llama 3's way, 'llama-bpe', "
            f"is known: {_BY_HAND}"
        )
    if keys.flag("tokenizer.ggml.add_eos_token", False):
        raise CheckpointError(
            f"{file.path} ends every prompt with a token (tokenizer.ggml.add_eos_token)"
            f", which this model does not: {_BY_HAND}"
        )


def _require_format(file: GgufFile, ids: dict[str, int], special: set[int]) -> None:
    """Checks that the prompt format's own tokens are there, and are no text."""
    for token in _FORMAT:
        if ids.get(token) not in special and (token != IMAGE or token in ids):
            raise CheckpointError(
                f"{file.path}: the vocabulary has no special token {token}; it is not "
                "of this model"
            )


def _image_token(file: GgufFile, ids: dict[str, int]) -> int:
    """The image token's id, once the vocabulary fits the embedding.

    The embedding has rows for the head's vocabulary, the image token and seven that
    nothing uses.  Ollama's files list the image token; a list that ends with the
    head's vocabulary leaves the id that it has in every published checkpoint.
    """
    rows = vocabulary_rows(file)
    embedded = file.tensors["token_embd.weight"].shape[0]
    if not rows <= len(ids) <= embedded:
        raise CheckpointError(
            f"{file.path} lists {len(ids)} tokens, which contradicts the embedding: it "
            f"is of a vocabulary of {rows} and has {embedded} rows"
        )
    if IMAGE in ids:
        return ids[IMAGE]
    if len(ids) > rows:
        raise CheckpointError(
            f"{file.path}: the vocabulary has no {IMAGE}; it is not of this model"
        )
    return rows


def _ends(file: GgufFile, keys: GgmlKeys, ids: dict[str, int]) -> tuple[int, list[int]]:
    """What ends an answer: the file's main token, and all of them."""
    last = len(ids) - 1
    eos = keys.integer(
        "tokenizer.ggml.eos_token_id",
        ids.get("<|eot_id|>", ids.get("<|end_of_text|>")),
        least=0,
        most=last,
    )
    if "tokenizer.ggml.eos_token_ids" in keys:
        listed = keys.integers("tokenizer.ggml.eos_token_ids")
        if not listed or max(listed) > last:
            raise CheckpointError(
                f"{file.path}: tokenizer.ggml.eos_token_ids {listed[:8]} must be of "
                f"the vocabulary, 0 to {last}"
            )
        return eos, listed
    # One token ends no answer that ends as Meta's format has it otherwise.
    return eos, sorted({eos, *(ids[end] for end in ENDS if end in ids)})


def _merges(
    file: GgufFile, keys: GgmlKeys, ids: dict[str, int]
) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for merge in keys.strings("tokenizer.ggml.merges"):
        left, space, right = merge.partition(" ")
        if not (space and left in ids and right in ids and left + right in ids):
            raise CheckpointError(
                f"{file.path}: the merge {quoted(merge)} is not of two tokens that "
                "make a third; the file is damaged"
            )
        merges.append((left, right))
    missing = [b for b in pre_tokenizers.ByteLevel.alphabet() if b not in ids]
    if missing:
        raise CheckpointError(
            f"{file.path}: the vocabulary lacks {len(missing)} of the 256 bytes; the "
            "file is damaged or of another model"
        )
    return merges
