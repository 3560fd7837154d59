"""Writes the files beside the weights: tokenizer, chat template, image processor."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, Literal

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

from .configs import write_json

TemplateLayout = Literal["jinja", "json", "tokenizer_config"]
ProcessorLayout = Literal["preprocessor_config", "processor_config"]

IMAGE = "<|image|>"
BOS = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
END_OF_MESSAGE = "<|eom_id|>"
END_OF_TURN = "<|eot_id|>"
PAD = "<|finetune_right_pad_id|>"

# In the published order; ``<|image|>`` follows the last reserved token.
NAMED_SPECIALS = (
    BOS,
    END_OF_TEXT,
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    PAD,
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    END_OF_MESSAGE,
    END_OF_TURN,
    "<|python_tag|>",
)
MIN_SPECIALS = 16

# The regular expression with which Llama 3 splits text before merging byte pairs.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The spelling is part of the data: the seed of the checkpoints was chosen for it.
CORPUS = (
    "What is in this picture? How many shapes are there, and which colours?",
    "The red square is left of the blue circle; the green triangle is above it.",
    "You are a helpful assistant who answers in one short sentence.",
    "Describe the image in detail. Compare the two images with each other.",
    "Which of the two pictures shows the digit seven? The first one, I think.",
    "Today Date: 26 Jul 2024. Cutting Knowledge Date: December 2023.",
    "user assistant system tool ipython environment",
    "A wide street at night, a tall tower, a tiny dot and an empty sky.",
)

# A template of our own with the structure of the official one of Llama 3.2 Vision:
# header, blank line, content, end of turn; the parts of a message in their order; a
# system block if there is a system message or no image.  Unlike the first published
# version, it accepts a system message together with images.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if date_string is not defined %}{% set date_string = "26 Jul 2024" %}{% endif %}
{%- set seen = namespace(image=false) %}
{%- for message in messages %}
  {%- if message.content is not string %}
    {%- for part in message.content %}
      {%- if part.type == "image" %}{% set seen.image = true %}{% endif %}
    {%- endfor %}
  {%- endif %}
{%- endfor %}
{%- if messages[0].role == "system" %}
  {%- if messages[0].content is string %}
    {%- set instructions = messages[0].content | trim %}
  {%- else %}
    {%- set instructions = messages[0].content[0].text | trim %}
  {%- endif %}
  {%- set turns = messages[1:] %}
{%- else %}
  {%- set instructions = "" %}
  {%- set turns = messages %}
{%- endif %}
{%- if instructions or not seen.image %}
  {{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
  {{- "Cutting Knowledge Date: December 2023\\n" }}
  {{- "Today Date: " + date_string + "\\n\\n" }}
  {{- instructions + "<|eot_id|>" }}
{%- endif %}
{%- for message in turns %}
  {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\\n\\n" }}
  {%- if message.content is string %}
    {{- message.content }}
  {%- else %}
    {%- for part in message.content %}
      {%- if part.type == "image" %}
        {{- "<|image|>" }}
      {%- elif part.type == "text" %}
        {{- part.text }}
      {%- endif %}
    {%- endfor %}
  {%- endif %}
  {{- "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""


def build_tokenizer(vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE with ``vocab_size`` entries, followed by ``<|image|>``.

    As in the published tokenizer, the post-processor also adds ``<|begin_of_text|>``,
    so that tokenizing a rendered template with special tokens yields it twice.  Ids
    that the short training text cannot fill are reserved tokens.
    """
    words = vocab_size - MIN_SPECIALS
    if words < 256:
        raise ValueError(f"vocab_size {vocab_size} is too small for bytes and specials")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=words,
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    specials = list(NAMED_SPECIALS)
    free = vocab_size - tokenizer.get_vocab_size() - len(specials)
    specials += [f"<|reserved_special_token_{i + 2}|>" for i in range(free)]
    tokenizer.add_special_tokens(
        [AddedToken(s, normalized=False, special=True) for s in [*specials, IMAGE]]
    )
    if tokenizer.token_to_id(IMAGE) != vocab_size:
        raise AssertionError("<|image|> must be the first id after the vocabulary")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single=f"{BOS} $A",
                pair=f"{BOS} $A {BOS} $B",
                special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
            ),
        ]
    )
    return tokenizer


def printable_ids(tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    """Returns ordinary tokens that decode to printable ASCII on their own."""
    printable = set(string.printable) - set("\r\x0b\x0c")
    specials = set(tokenizer.get_added_tokens_decoder())
    return [
        i
        for i in range(vocab_size)
        if i not in specials and set(tokenizer.decode([i])) <= printable
    ]


def write_tokenizer(folder: Path, tokenizer: Tokenizer, layout: TemplateLayout) -> None:
    """Writes the tokenizer, its config, special tokens and the chat template."""
    tokenizer.save(str(folder / "tokenizer.json"))
    specials = {"bos_token": BOS, "eos_token": END_OF_TURN, "pad_token": PAD}
    added = {
        str(i): {
            "content": token.content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for i, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    settings: dict[str, Any] = {
        "added_tokens_decoder": added,
        **specials,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if layout == "tokenizer_config":
        settings["chat_template"] = CHAT_TEMPLATE
    elif layout == "json":
        write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    else:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", specials)


def write_image_processor(
    folder: Path, *, tile: int, max_tiles: int, layout: ProcessorLayout
) -> None:
    """Writes the image processor's settings, in its own file or the processor's."""
    settings = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "MllamaImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "max_image_tiles": max_tiles,
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": tile, "width": tile},
    }
    if layout == "preprocessor_config":
        write_json(folder / "preprocessor_config.json", settings)
    else:
        write_json(
            folder / "processor_config.json",
            {"image_processor": settings, "processor_class": "MllamaProcessor"},
        )
