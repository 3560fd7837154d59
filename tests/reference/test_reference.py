"""The oracle depends on what it should, and on nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from .cases import REPRESENTATIVE_CASES, Message, case, case_names, cases, picture
from .checkpoints import checkpoint
from .compare import argmax_margin, assert_close, assert_same_tokens
from .oracle import Prompt, Reference, reference


@pytest.fixture(scope="module")
def oracle() -> Reference:
    return reference(checkpoint())


@pytest.fixture(scope="module")
def tile(oracle: Reference) -> int:
    return int(oracle.model.config.vision_config.image_size)


def with_other_images(messages: tuple[Message, ...]) -> list[Message]:
    """Returns the same conversation about other images of the same sizes."""

    def other(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] != "image":
            return part
        return {"type": "image", "image": picture("other", *part["image"].size)}

    return [
        m
        if isinstance(m["content"], str)
        else {**m, "content": [other(p) for p in m["content"]]}
        for m in messages
    ]


def image_positions(oracle: Reference, prompt: Prompt) -> np.ndarray:
    return np.flatnonzero(prompt.token_ids == oracle.model.config.image_token_index)


def with_mask_row_repeated(prompt: Prompt, extra: list[int]) -> dict[str, torch.Tensor]:
    """Appends ``extra`` tokens, with the last row of the cross-attention mask."""
    tensors = dict(prompt.tensors)
    tail = torch.tensor([extra])
    tensors["input_ids"] = torch.cat([tensors["input_ids"], tail], dim=1)
    tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
    if (mask := tensors.get("cross_attention_mask")) is not None:
        more = mask[:, -1:].expand(-1, len(extra), -1, -1)
        tensors["cross_attention_mask"] = torch.cat([mask, more], dim=1)
    return tensors


@pytest.mark.parametrize("name", case_names())
def test_cases_have_the_declared_tiles(oracle: Reference, tile: int, name: str) -> None:
    request = case(name, tile)
    prompt = oracle.prompt(request.messages)
    assert prompt.num_tiles == request.tiles
    assert len(image_positions(oracle, prompt)) == len(request.images)
    begins = prompt.token_ids == oracle.model.config.text_config.bos_token_id
    assert np.flatnonzero(begins).tolist() == [0]


def test_logits_spread_and_the_best_token_leads(oracle: Reference, tile: int) -> None:
    # Tests can require equal greedy tokens only if the lead is far above the tolerance
    # of float32.  If new dimensions break this, choose another default seed.
    answers = set()
    for request in cases(tile):
        decoded = oracle.decode(request.messages)
        assert 1.0 < decoded.logits.std() < 4.0, request.name
        assert argmax_margin(decoded.logits) > 1e-2, request.name
        answers.add(tuple(decoded.token_ids))
    assert len(answers) > len(cases(tile)) / 2


@pytest.mark.parametrize(
    "name", ["system_and_image", "text_before_image", "image_last"]
)
def test_tokens_before_the_image_do_not_depend_on_it(
    oracle: Reference, tile: int, name: str
) -> None:
    request = case(name, tile)
    position = image_positions(oracle, oracle.prompt(request.messages))[0]
    first = oracle.prefill(request.messages)
    second = oracle.prefill(with_other_images(request.messages))
    np.testing.assert_array_equal(first[:position], second[:position])
    change = np.abs(first - second).max(axis=-1)
    assert (change[position:] > 0.1).all(), change[position:]


def test_without_the_patch_tokens_before_the_image_depend_on_it(tile: int) -> None:
    plain = reference(checkpoint(), patched=False)
    request = case("text_before_image", tile)
    position = image_positions(plain, plain.prompt(request.messages))[0]
    first = plain.prefill(request.messages)
    second = plain.prefill(with_other_images(request.messages))
    assert np.abs(first - second)[:position].max() > 0.1


def test_text_only_sequence_in_a_batch_with_images_equals_it_alone(
    oracle: Reference, tile: int
) -> None:
    # In a batch, the mask of a request without images is zero everywhere.
    text = oracle.prompt(case("text_only", tile).messages)
    image = oracle.prompt(case("four_tiles", tile).messages)
    tensors = {**image.tensors, **text.tensors}
    shape = (1, len(text.token_ids), *image.tensors["cross_attention_mask"].shape[2:])
    tensors["cross_attention_mask"] = torch.zeros(shape, dtype=torch.int64)
    alone = oracle.logits(text.tensors)
    assert_close(oracle.logits(tensors), alone, what="masked tokens", tolerance=1e-5)
    plain = reference(checkpoint(), patched=False)
    assert np.abs(plain.logits(tensors) - alone).max() > 0.1


def test_tokens_attend_to_the_latest_run_of_adjacent_images(
    oracle: Reference, tile: int
) -> None:
    def mask_of(name: str) -> tuple[np.ndarray, np.ndarray]:
        prompt = oracle.prompt(case(name, tile).messages)
        assert prompt.cross_attention_mask is not None
        return prompt.cross_attention_mask.sum(axis=-1), image_positions(oracle, prompt)

    # Within a run, an image token does not attend to the images after it.
    seen, (p1, p2, p3) = mask_of("three_adjacent_images")
    assert (p2, p3) == (p1 + 1, p1 + 2)
    assert not seen[:p1].any()
    assert seen[p1].tolist() == [1, 0, 0]
    assert seen[p2].tolist() == [1, 3, 0]
    assert (seen[p3:] == [1, 3, 2]).all()
    # Text between two images ends the first run, in one turn and across turns.
    for name, tiles in (("text_between_images", (2, 1)), ("image_per_turn", (1, 4))):
        seen, (p1, p2) = mask_of(name)
        assert not seen[:p1].any()
        assert (seen[p1:p2] == [tiles[0], 0]).all()
        assert (seen[p2:] == [0, tiles[1]]).all()


def test_self_attention_carries_earlier_images_to_later_tokens(
    oracle: Reference, tile: int
) -> None:
    # Masking the first image still changes tokens after the second.
    prompt = oracle.prompt(case("image_per_turn", tile).messages)
    tensors = dict(prompt.tensors)
    tensors["cross_attention_mask"] = tensors["cross_attention_mask"].clone()
    tensors["cross_attention_mask"][:, :, 0] = 0
    change = np.abs(oracle.logits(tensors) - oracle.logits(prompt.tensors))
    assert change[-1].max() > 1e-2


@pytest.mark.parametrize(
    "name", [*REPRESENTATIVE_CASES, "two_images_in_one_turn", "image_per_turn"]
)
def test_decoding_repeats_the_last_row_of_the_mask(
    oracle: Reference, tile: int, name: str
) -> None:
    prompt = oracle.prompt(case(name, tile).messages)
    decoded = oracle.decode(case(name, tile).messages)
    whole = oracle.logits(with_mask_row_repeated(prompt, decoded.token_ids[:-1]))
    steps = whole[len(prompt.token_ids) - 1 :]
    assert_close(decoded.logits, steps, what=name, tolerance=1e-5)
    chosen = steps.argmax(axis=-1).tolist()
    assert_same_tokens(decoded.token_ids, chosen, what=name, logits=steps)


def test_vision_stages_and_cross_kv_equal_those_of_the_model(
    oracle: Reference, tile: int
) -> None:
    request = case("two_images_in_one_turn", tile)
    prompt = oracle.prompt(request.messages)
    with torch.inference_mode():
        cached = oracle.model(**prompt.tensors, use_cache=True).past_key_values
    patches = oracle.model.model.vision_model.num_patches
    slots = oracle.model.config.vision_config.max_num_tiles * patches
    stages = oracle.vision(request.images)
    for number, layers in enumerate(oracle.cross_kv(request.images)):
        rows = slice(number * slots, number * slots + request.tiles[number] * patches)
        assert stages[number].valid == request.tiles[number]
        for index, pair in layers.items():
            layer = cached.layers[index]
            for actual, kept in zip(pair, (layer.keys, layer.values), strict=True):
                expected = kept[0, :, rows].transpose(0, 1).numpy()
                assert_close(actual, expected, what=f"layer {index}", tolerance=1e-5)


def test_intermediate_states_are_the_inputs_of_the_layers(
    oracle: Reference, tile: int
) -> None:
    (stages,) = oracle.vision(case("two_tiles", tile).images)
    inputs = (stages.normed, *stages.layers)
    config = oracle.model.config.vision_config
    recorded = [inputs[i] for i in config.intermediate_layers_indices]
    expected = np.stack(recorded, axis=-1).reshape(stages.intermediate.shape)
    np.testing.assert_array_equal(stages.intermediate, expected)
    width = config.hidden_size
    np.testing.assert_array_equal(stages.output[..., :width], stages.after_global)


def test_real_patches_attend_to_padding_tiles(oracle: Reference, tile: int) -> None:
    # This is why the vision encoder can't drop padding tiles.
    inputs = oracle.prompt(case("one_tile", tile).messages).tensors
    tower = oracle.model.model.vision_model
    pixels = inputs["pixel_values"].clone()
    assert (pixels[:, :, 1:] == 0).all()
    names = ("aspect_ratio_ids", "aspect_ratio_mask")
    rest = {name: inputs[name] for name in names}
    with torch.inference_mode():
        before = tower(pixel_values=pixels, **rest).last_hidden_state[0, 0, 0]
        pixels[:, :, 1:] = 1.0
        after = tower(pixel_values=pixels, **rest).last_hidden_state[0, 0, 0]
    assert (before - after).abs().max() > 1e-2


def test_eager_attention_equals_sdpa(oracle: Reference, tile: int) -> None:
    eager = Reference(checkpoint(), attention="eager")
    for name in REPRESENTATIVE_CASES:
        messages = case(name, tile).messages
        expected = oracle.prefill(messages)
        assert_close(eager.prefill(messages), expected, what=name, tolerance=1e-4)
