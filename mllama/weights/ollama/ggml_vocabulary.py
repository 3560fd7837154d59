"""Reads and checks the vocabulary in ggml's keys.

The file contains the vocabulary and the merges, but only a name for the way in which
text is split before merging (``tokenizer.ggml.pre``).  It must be Llama 3's way, the
only one that this model has.
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
"""Tokens that the prompt format needs."""

ENDS: Final = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
"""Tokens that end a document, a tool call or a turn in Meta's prompt format."""

_LLAMA_3 = ("llama-bpe", "llama3", "llama-v3", "default")
"""Names of Llama 3's way to split text.  Ollama's converter wrote ``default`` if it
didn't recognize a tokenizer; its engine split this model's text as Llama 3 anyway."""

_FILLER = re.compile(r"\[PAD\d+\]")
"""Tokens that Ollama's converter fills a vocabulary with; no text encodes to them."""

_USE_DIRECTORY = (
    "give a directory with the model's tokenizer as --model-path and this file as "
    "--weight-path"
)


@dataclass(frozen=True)
class GgmlVocabulary:
    """The checked vocabulary of a file.

    Attributes:
        tokens: Tokens by id, in the alphabet of byte-level BPE.
        added: Ids of tokens that are split off before anything else.
        special: Ids of those added tokens that aren't text.
        merges: Pairs of tokens, in the order in which they are merged.
        image_token_id: The id of ``<|image|>``, which may be ``len(tokens)``.
        bos_token_id: The token that a prompt begins with.
        adds_bos: True if the tokenizer adds it.
        eos_token_id: The main token that ends an answer.
        eos_token_ids: All tokens that end an answer.
        pad_token_id: The token that fills a batch; the main end token if there is none.
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
            belong to another kind of tokenizer.
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
            f"BPE, 'gpt2', is supported: {_USE_DIRECTORY}"
        )
    split = keys.string("tokenizer.ggml.pre", _LLAMA_3[0])
    if split not in _LLAMA_3:
        raise CheckpointError(
            f"{file.path} splits text like {quoted(split)}; only Llama 3's way, "
            f"'llama-bpe', is supported: {_USE_DIRECTORY}"
        )
    if keys.flag("tokenizer.ggml.add_eos_token", False):
        raise CheckpointError(
            f"{file.path} ends every prompt with a token (tokenizer.ggml.add_eos_token)"
            f", which this model does not: {_USE_DIRECTORY}"
        )


def _require_format(file: GgufFile, ids: dict[str, int], special: set[int]) -> None:
    """Checks that the prompt format's tokens exist and are special."""
    for token in _FORMAT:
        if ids.get(token) not in special and (token != IMAGE or token in ids):
            raise CheckpointError(
                f"{file.path}: the vocabulary has no special token {token}; it is of "
                "another model"
            )


def _image_token(file: GgufFile, ids: dict[str, int]) -> int:
    """Returns the image token's id, and checks that the vocabulary fits the embedding.

    The embedding has rows for the head's vocabulary, the image token and seven unused
    tokens.  Ollama's files list the image token.  If a list ends with the head's
    vocabulary, the token has the id that it has in every published checkpoint.
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
            f"{file.path}: the vocabulary has no {IMAGE}; it is of another model"
        )
    return rows


def _ends(file: GgufFile, keys: GgmlKeys, ids: dict[str, int]) -> tuple[int, list[int]]:
    """Returns the main token that ends an answer, and all that do."""
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
    # The main token alone would miss the other endings of Meta's format.
    return eos, sorted({eos, *(ids[end] for end in ENDS if end in ids)})


def _merges(
    file: GgufFile, keys: GgmlKeys, ids: dict[str, int]
) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for merge in keys.strings("tokenizer.ggml.merges"):
        left, space, right = merge.partition(" ")
        if not (space and left in ids and right in ids and left + right in ids):
            raise CheckpointError(
                f"{file.path}: the merge {quoted(merge)} doesn't join two tokens "
                "into a third; the file is damaged"
            )
        merges.append((left, right))
    missing = [b for b in pre_tokenizers.ByteLevel.alphabet() if b not in ids]
    if missing:
        raise CheckpointError(
            f"{file.path}: the vocabulary lacks {len(missing)} of the 256 bytes; the "
            "file is damaged or of another model"
        )
    return merges
