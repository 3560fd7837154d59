"""Derives tokenizer.json and its companions from ggml's keys."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)

from mllama.errors import CheckpointError
from mllama.weights.gguf.file import GgufFile
from mllama.weights.ollama.ggml_vocabulary import IMAGE, GgmlVocabulary

_SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's regular expression, as in every published tokenizer.json."""


def tokenizer_json(file: GgufFile, vocabulary: GgmlVocabulary) -> str:
    """Returns the content of tokenizer.json.

    Raises:
        CheckpointError: If the tokenizers library rejects the vocabulary.
    """
    tokens, added = vocabulary.tokens, vocabulary.added
    # Added tokens at the end get their ids from their order, as in published files;
    # the others get theirs from the vocabulary.
    first_added = len(tokens)
    for index in reversed(added):
        if index != first_added - 1:
            break
        first_added = index
    try:
        tokenizer = Tokenizer(
            models.BPE(
                {token: index for index, token in enumerate(tokens[:first_added])},
                vocabulary.merges,
                # A word that is a token stays one, whatever the merges give.
                ignore_merges=True,
            )
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLIT_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_tokens(
            [
                AddedToken(tokens[i], special=i in vocabulary.special, normalized=False)
                for i in added
            ]
        )
        if vocabulary.image_token_id == len(tokens):
            tokenizer.add_special_tokens([_special(IMAGE)])
        steps: list[Any] = [processors.ByteLevel(trim_offsets=False)]
        if vocabulary.adds_bos:
            begin = tokens[vocabulary.bos_token_id]
            steps.append(_prepend_token(begin, vocabulary.bos_token_id))
        tokenizer.post_processor = processors.Sequence(steps)
    except Exception as error:  # The library raises bare exceptions.
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{file.path}: the tokenizers library rejects the vocabulary: {reason}"
        ) from error
    wrong = [i for i in added if tokenizer.token_to_id(tokens[i]) != i]
    if wrong or tokenizer.token_to_id(IMAGE) != vocabulary.image_token_id:
        raise CheckpointError(
            f"{file.path}: the vocabulary's special tokens can't keep their ids"
        )
    return str(tokenizer.to_str())


def _special(content: str) -> AddedToken:
    return AddedToken(content, special=True, normalized=False)


def _prepend_token(content: str, token_id: int) -> processors.TemplateProcessing:
    """Returns a processor that prepends a token to every text, as Llama 3's do."""
    return processors.TemplateProcessing(
        single="begin:0 $A:0",
        pair="begin:0 $A:0 begin:1 $B:1",
        special_tokens=[{"id": "begin", "ids": [token_id], "tokens": [content]}],
    )


def tokenizer_config(vocabulary: GgmlVocabulary, max_length: int) -> dict[str, Any]:
    """Returns the content of tokenizer_config.json.

    Args:
        vocabulary: The file's vocabulary.
        max_length: The model's context length in tokens.
    """
    tokens = vocabulary.tokens
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[vocabulary.bos_token_id],
        "eos_token": tokens[vocabulary.eos_token_id],
        "pad_token": tokens[vocabulary.pad_token_id],
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length,
    }


def generation_config(vocabulary: GgmlVocabulary) -> dict[str, Any]:
    """Returns the content of generation_config.json, with Meta's sampling settings."""
    return {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "bos_token_id": vocabulary.bos_token_id,
        "eos_token_id": vocabulary.eos_token_ids,
        "pad_token_id": vocabulary.pad_token_id,
    }


def to_json(content: dict[str, Any]) -> str:
    """Formats JSON as Hugging Face's files do."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
