"""EleutherAI's harness measures the served model, unmodified and without torch.

The first run installs the harness.  Its results equal those of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mllama.demo_model import MODEL_NAME, MODEL_PATH, PICTURES
from tests.reference.oracle import Reference, reference
from tests.server.conftest import Server, running

from .environment import TASKS, evaluate

pytestmark = pytest.mark.long

TOLERANCE = 1e-4
"""Error of the log probability of a token."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    with running(log, "--quantization-encoding", "float32") as started:
        yield started


@pytest.fixture(scope="module")
def oracle() -> Reference:
    return reference(MODEL_PATH)


class Scores:
    """What the harness should find, by transformers."""

    def __init__(self, oracle: Reference) -> None:
        self._oracle = oracle
        self._tokenizer: Any = oracle.processor.tokenizer

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def continuation(self, context: str, text: str) -> tuple[float, bool, int]:
        """Returns the log probability of a text after another, whether each of its
        tokens is the likeliest, and their number."""
        if context:
            stripped = context.rstrip()
            whole = self.tokens(context + text)
            start = len(self.tokens(stripped))
        else:
            whole = [self._tokenizer.bos_token_id, *self.tokens(text)]
            start = 1
        logits = self._oracle.logits({"input_ids": torch.tensor([whole])})
        rows = logits[start - 1 : -1].astype(np.float64)
        rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
        following = whole[start:]
        values = rows[np.arange(len(following)), following]
        is_greedy = bool((rows.argmax(axis=1) == following).all())
        return float(values.sum()), is_greedy, len(following)

    def answer(self, text: str, new_tokens: int) -> str:
        """Returns the greedy answer to a prompt without a template."""
        prompt = torch.tensor([self.tokens(text)])
        out = self._oracle.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            temperature=None,
            top_p=None,
            max_new_tokens=new_tokens,
            eos_token_id=self._tokenizer.eos_token_id,
        )
        answer: str = self._tokenizer.decode(
            out[0, prompt.shape[1] :], skip_special_tokens=True
        )
        return answer


@pytest.fixture(scope="module")
def scores(oracle: Reference) -> Scores:
    return Scores(oracle)


def documents(name: str) -> list[Any]:
    lines = (TASKS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(("batch_size", "num_concurrent"), [(1, 1), (3, 2)])
def test_completions_equal_transformers(
    server: Server,
    scores: Scores,
    tmp_path: Path,
    batch_size: int,
    num_concurrent: int,
) -> None:
    """Multiple choice, perplexity, and answers to texts without a template."""
    results, samples = evaluate(
        "local-completions",
        ["mllama_choices", "mllama_texts", "mllama_beginnings"],
        tmp_path,
        "--batch_size",
        str(batch_size),
        model=MODEL_NAME,
        base_url=f"{server.url}/v1/completions",
        tokenizer_backend="huggingface",
        tokenizer=MODEL_PATH,
        max_length=256,
        num_concurrent=num_concurrent,
    )
    right = 0
    for sample, document in zip(
        samples["mllama_choices"], documents("choices"), strict=True
    ):
        expected = [
            scores.continuation(document["context"], choice)
            for choice in document["choices"]
        ]
        found = [response[0] for response in sample["resps"]]
        for (value, is_greedy), (own, own_greedy, tokens) in zip(
            found, expected, strict=True
        ):
            assert float(value) == pytest.approx(own, abs=TOLERANCE * tokens)
            assert str(is_greedy) == str(own_greedy)
        best = int(np.argmax([value for value, _, _ in expected]))
        right += best == document["answer"]
    assert results["mllama_choices"]["acc,none"] == right / len(documents("choices"))

    total, size = 0.0, 0
    for sample, document in zip(
        samples["mllama_texts"], documents("texts"), strict=True
    ):
        own, _, tokens = scores.continuation("", document["text"])
        (value,) = sample["resps"][0]
        assert float(value) == pytest.approx(own, abs=TOLERANCE * tokens)
        total, size = total + own, size + len(document["text"].encode())
    assert results["mllama_texts"]["bits_per_byte,none"] == pytest.approx(
        -total / size / np.log(2), abs=TOLERANCE
    )

    for sample, document in zip(
        samples["mllama_beginnings"], documents("beginnings"), strict=True
    ):
        expected_text = scores.answer(document["text"], 12).split("circle")[0]
        assert sample["resps"] == [[expected_text]]


def test_chats_about_pictures_are_answered(server: Server, tmp_path: Path) -> None:
    """The first question about each picture that ships, which the model answers."""
    lines = [
        {
            "path": str(picture.path),
            "question": picture.questions[0].text,
            "answer": picture.questions[0].answer,
        }
        for picture in PICTURES
    ]
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "pictures.jsonl").write_text("\n".join(map(json.dumps, lines)))
    results, samples = evaluate(
        "local-chat-completions",
        ["mllama_pictures"],
        tmp_path,
        "--apply_chat_template",
        model=MODEL_NAME,
        base_url=f"{server.url}/v1/chat/completions",
    )
    answers = [sample["resps"] for sample in samples["mllama_pictures"]]
    assert answers == [[[line["answer"]]] for line in lines]
    assert results["mllama_pictures"]["exact_match,none"] == 1


def test_chats_are_answered(server: Server, oracle: Reference, tmp_path: Path) -> None:
    """Without pictures, the answer is that of transformers."""
    _, samples = evaluate(
        "local-chat-completions",
        ["mllama_beginnings"],
        tmp_path,
        "--apply_chat_template",
        model=MODEL_NAME,
        base_url=f"{server.url}/v1/chat/completions",
    )
    tokenizer = oracle.processor.tokenizer
    for sample, document in zip(
        samples["mllama_beginnings"], documents("beginnings"), strict=True
    ):
        messages = [{"role": "user", "content": document["text"]}]
        tokens = oracle.decode(messages, 11).token_ids
        if tokenizer.eos_token_id in tokens:
            tokens = tokens[: tokens.index(tokenizer.eos_token_id)]
        text = tokenizer.decode(tokens, skip_special_tokens=True).split("circle")[0]
        assert sample["resps"] == [[text]]
