"""The draft model computes what transformers' Llama does, in every kind of file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from transformers import LlamaForCausalLM

from mllama.launch.draft_files import resolve_draft_files
from mllama.max_model.draft.cache import DraftCacheManager
from mllama.max_model.draft.model import DraftModel, DraftRow
from mllama.runtime.speculation.draft_proposer import DraftProposer
from mllama.weights.gguf.checkpoint import open_llama_gguf, read_tensors
from tests.max_model.draft.loading import PAGES, load, model_files, random_tokens
from tests.reference.compare import spread_error
from tests.reference.llama import write_llama, write_llama_gguf


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"), seed=1)


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> DraftModel:
    return load(settings_of(checkpoint))


@pytest.fixture
def draft(loaded: DraftModel) -> DraftModel:
    """The model with an empty cache; what its memory holds is overwritten."""
    loaded.cache = DraftCacheManager(PAGES, 128)
    return loaded


@pytest.fixture(scope="module")
def oracle(checkpoint: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def settings_of(path: Path) -> Any:
    files = resolve_draft_files(str(path), model_files(), device_type="cpu")
    return files.ensure_quantized(quiet=True).draft_settings


def expected_logits(oracle: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return oracle(torch.tensor(tokens)[None]).logits[0].numpy()


def greedy(oracle: Any, tokens: np.ndarray, count: int) -> list[int]:
    """Returns what transformers says next, one token at a time."""
    said: list[int] = []
    for _ in range(count):
        logits = expected_logits(oracle, np.append(tokens, said).astype(np.int64))
        said.append(int(logits[-1].argmax()))
    return said


def request(name: str, tokens: Any) -> Any:
    return SimpleNamespace(
        request_id=name,
        tokens=SimpleNamespace(all=np.array(tokens, np.int64)),
        eos_tracker=SimpleNamespace(eos_token_ids=set()),
    )


def all_logits(model: DraftModel, tokens: np.ndarray) -> np.ndarray:
    """Returns the logits after a prompt in two chunks, and after each of 3 tokens."""
    pages = [5, 2, 9]
    steps = [(0, 100), (100, len(tokens) - 3)]
    steps += [(end, end + 1) for end in range(len(tokens) - 3, len(tokens))]
    return np.concatenate(
        [model.logits([DraftRow(tokens[a:b], a, pages)]) for a, b in steps]
    )


def check(model: DraftModel, oracle: Any, most: float) -> None:
    tokens = random_tokens(300, seed=3)
    expected = expected_logits(oracle, tokens)[[99, 296, 297, 298, 299]]
    assert spread_error(all_logits(model, tokens), expected).max() < most


def test_logits_equal_those_of_transformers(draft: DraftModel, oracle: Any) -> None:
    check(draft, oracle, 1e-4)


def test_requests_of_different_lengths_share_a_step(
    draft: DraftModel, oracle: Any
) -> None:
    long, short = random_tokens(200, seed=4), random_tokens(5, seed=5)
    rows = [DraftRow(long[:150], 0, [4, 6]), DraftRow(short[:2], 0, [1])]
    first = draft.logits(rows)
    rows = [DraftRow(short[2:], 2, [1]), DraftRow(long[150:], 150, [4, 6])]
    second = draft.logits(rows)
    found = [first[0], second[1], first[1], second[0]]
    wanted = [
        *expected_logits(oracle, long)[[149, 199]],
        *expected_logits(oracle, short)[[1, 4]],
    ]
    assert spread_error(np.stack(found), np.stack(wanted)).max() < 1e-4


def test_tied_embeddings_are_the_head(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "tied", seed=6, tie_word_embeddings=True)
    oracle = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    check(load(settings_of(folder)), oracle, 1e-4)


def test_llama_cpps_files_are_read(
    checkpoint: Path, oracle: Any, tmp_path: Path
) -> None:
    file = write_llama_gguf(checkpoint, tmp_path / "llama.gguf")
    check(load(settings_of(file)), oracle, 1e-4)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A checkpoint of bfloat16 with a tied head, and its settings as it is served."""
    folder = tmp_path_factory.mktemp("bf16")
    write_llama(folder, 7, dtype=torch.bfloat16, tie_word_embeddings=True)
    return folder, settings_of(folder)


def test_bfloat16_is_quantized_once(quantized: tuple[Path, Any]) -> None:
    """The tied head is in the format of a head of its own."""
    folder, settings = quantized
    assert settings.encoding == "q4_k"
    assert settings_of(folder) == settings
    (file,) = settings.weight_path
    formats = {
        name: tensor.format
        for name, tensor in read_tensors(open_llama_gguf(file), settings.config)
    }
    assert formats["language_model.embed_tokens.weight"] == "Q6_K"
    assert formats["language_model.layers.0.mlp.gate_proj.weight"] == "Q4_K"
    assert formats["language_model.norm.weight"] is None


@pytest.mark.long
def test_quantized_logits_equal_those_of_the_same_weights(
    quantized: tuple[Path, Any],
) -> None:
    folder, settings = quantized
    oracle = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    (file,) = settings.weight_path
    weights = {}
    for name, tensor in read_tensors(open_llama_gguf(file), settings.config):
        values = tensor.values
        if tensor.format is not None:
            values = dequantize(values, GGMLQuantizationType[tensor.format])
        weights[name.replace("language_model.", "model.")] = torch.tensor(values)
    oracle.load_state_dict(weights, strict=False)
    # The kernels round activations to int8.
    check(load(settings), oracle, 0.06)


def test_guesses_are_what_the_model_says(draft: DraftModel, oracle: Any) -> None:
    proposer = DraftProposer(draft, prefill_tokens=512)
    prompts = [random_tokens(n, seed=n) for n in (40, 7, 130)]
    requests = [request(f"{n}", prompt) for n, prompt in enumerate(prompts)]
    guesses = proposer.propose(requests, [4, 0, 2])
    assert [list(each) for each in guesses] == [
        greedy(oracle, prompts[0], 4),
        [],
        greedy(oracle, prompts[2], 2),
    ]
    assert all(each.dtype == np.int64 for each in guesses)


def test_guesses_after_a_rejection_are_those_of_a_new_request(
    draft: DraftModel, oracle: Any
) -> None:
    proposer = DraftProposer(draft, prefill_tokens=512)
    prompt = random_tokens(126, seed=8)
    (guesses,) = proposer.propose([request("a", prompt)], [5])
    # Two guesses were right, and the third is another token, beyond a page's end.
    truth = [*prompt, *guesses[:2], (guesses[2] + 1) % 700]
    (after,) = proposer.propose([request("a", truth)], [4])
    (fresh,) = proposer.propose([request("b", truth)], [4])
    assert list(after) == list(fresh) == greedy(oracle, np.array(truth), 4)


def test_pictures_are_left_out(draft: DraftModel, oracle: Any) -> None:
    prompt = random_tokens(9, seed=9)
    image = draft.vocabulary
    seen = [*prompt[:3], image, image, *prompt[3:]]
    (guesses,) = DraftProposer(draft).propose([request("a", seen)], [3])
    assert list(guesses) == greedy(oracle, prompt, 3)
