"""The demo model's tokenizer and chat template, built as Llama 3.2 Vision's are.

The tokenizer is a byte-level BPE, so that any text can be encoded.  It is trained on
the demo's own questions and answers, so that their words are one token each and
sequences stay short.  Special tokens have Llama's names; ``<|image|>`` has the first
id after the LM head's vocabulary, as in the real model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
from transformers import PreTrainedTokenizerFast

from demo.data.conversations import vocabulary_text
from demo.training.architecture import VOCABULARY

BEGIN, END, TURN_END = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
HEADER, HEADER_END = "<|start_header_id|>", "<|end_header_id|>"
PAD, IMAGE, TOOL = "<|finetune_right_pad_id|>", "<|image|>", "<|python_tag|>"

IN_VOCABULARY = (BEGIN, END, PAD, HEADER, HEADER_END, "<|eom_id|>", TURN_END, TOOL)
"""Special tokens that the LM head can produce; the image token is not among them."""

# Llama 3's split of text into words, before any merge.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

ENGLISH = (
    "the of and to in is you that it he was for on are as with his they I at be this "
    "have from or one had by word but not what all were we when your can said there "
    "use an each which she do how their if will up other about out many then them "
    "these so some her would make like him into time has look two more write go see "
    "number no way could people my than first water been call who oil its now find "
    "long down day did get come made may part please tell me show picture hello yes"
)
"""Common words, so that free text does not become mostly bytes."""

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}
    {{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson + '\\n' }}
    {%- endfor %}
    {{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- set role = 'ipython' if message['role'] == 'tool' else message['role'] %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] }}
    {%- else %}
        {%- for part in message['content'] %}
            {%- if part['type'] == 'image' or part['type'] == 'image_url' %}
                {{- '<|image|>' }}
            {%- elif part['type'] == 'text' %}
                {{- part['text'] }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {%- for call in message['tool_calls'] or [] %}
        {{- '{"name": ' + call['function']['name'] | tojson }}
        {{- ', "parameters": ' + call['function']['arguments'] | tojson + '}' }}
        {{- '' if loop.last else '; ' }}
    {%- endfor %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Trains a byte-level BPE of the LM head's vocabulary and the image token."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(IN_VOCABULARY),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY - len(IN_VOCABULARY):
        raise ValueError("too little text for the vocabulary")
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in IN_VOCABULARY]
    )
    tokenizer.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BEGIN}:0 $A:0",
                pair=f"{BEGIN}:0 $A:0 {BEGIN}:1 $B:1",
                special_tokens=[(BEGIN, begin)],
            ),
        ]
    )
    return tokenizer


def build(seed: int = 0, count: int = 20_000) -> PreTrainedTokenizerFast:
    """Returns the tokenizer as transformers' class, with its chat template."""
    texts = vocabulary_text(np.random.default_rng(seed), count)
    # Every word with and without a space before it, but less often than the demo's own.
    for word in dict.fromkeys(ENGLISH.split()):
        texts += [f" {word}"] * (count // 200) + [word] * (count // 400)
    return PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(texts),
        bos_token=BEGIN,
        eos_token=TURN_END,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Returns the ids of all special tokens."""
    names = (*IN_VOCABULARY, IMAGE)
    return {name: int(tokenizer.convert_tokens_to_ids(name)) for name in names}
