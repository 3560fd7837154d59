"""The oracle itself: that it depends on what it should, and on nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from .cases import FEW, Message, case, case_names, cases, picture
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
    """The same conversation about other pictures of the same sizes."""

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


def image_rows(oracle: Reference, prompt: Prompt) -> np.ndarray:
    return np.flatnonzero(prompt.token_ids == oracle.model.config.image_token_index)


def last_row_repeated(prompt: Prompt, extra: list[int]) -> dict[str, torch.Tensor]:
    """The prompt followed by ``extra`` tokens that see what its last row sees."""
    tensors = dict(prompt.tensors)
    tail = torch.tensor([extra])
    tensors["input_ids"] = torch.cat([tensors["input_ids"], tail], dim=1)
    tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
    if (mask := tensors.get("cross_attention_mask")) is not None:
        more = mask[:, -1:].expand(-1, len(extra), -1, -1)
        tensors["cross_attention_mask"] = torch.cat([mask, more], dim=1)
    return tensors


@pytest.mark.parametrize("name", case_names())
def test_cases_have_the_tiles_they_claim(
    oracle: Reference, tile: int, name: str
) -> None:
    request = case(name, tile)
    prompt = oracle.prompt(request.messages)
    assert prompt.num_tiles == request.tiles
    assert len(image_rows(oracle, prompt)) == len(request.images)
    begins = prompt.token_ids == oracle.model.config.text_config.bos_token_id
    assert np.flatnonzero(begins).tolist() == [0]


def test_logits_spread_and_the_best_token_leads(oracle: Reference, tile: int) -> None:
    # Equal greedy tokens can be asked for only where the lead is far above the
    # tolerance of float32.  If new dimensions break this, take another default seed.
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
def test_rows_before_the_image_do_not_depend_on_it(
    oracle: Reference, tile: int, name: str
) -> None:
    request = case(name, tile)
    place = image_rows(oracle, oracle.prompt(request.messages))[0]
    first = oracle.prefill(request.messages)
    second = oracle.prefill(with_other_images(request.messages))
    np.testing.assert_array_equal(first[:place], second[:place])
    change = np.abs(first - second).max(axis=-1)
    assert (change[place:] > 0.1).all(), change[place:]


def test_without_the_patch_rows_before_the_image_depend_on_it(tile: int) -> None:
    plain = reference(checkpoint(), patched=False)
    request = case("text_before_image", tile)
    place = image_rows(plain, plain.prompt(request.messages))[0]
    first = plain.prefill(request.messages)
    second = plain.prefill(with_other_images(request.messages))
    assert np.abs(first - second)[:place].max() > 0.1


def test_a_text_only_row_among_images_equals_the_text_alone(
    oracle: Reference, tile: int
) -> None:
    # What a batch makes of a request without images: its mask is zero everywhere.
    text = oracle.prompt(case("text_only", tile).messages)
    image = oracle.prompt(case("four_tiles", tile).messages)
    tensors = {**image.tensors, **text.tensors}
    shape = (1, len(text.token_ids), *image.tensors["cross_attention_mask"].shape[2:])
    tensors["cross_attention_mask"] = torch.zeros(shape, dtype=torch.int64)
    alone = oracle.logits(text.tensors)
    assert_close(oracle.logits(tensors), alone, what="masked rows", tolerance=1e-5)
    plain = reference(checkpoint(), patched=False)
    assert np.abs(plain.logits(tensors) - alone).max() > 0.1


def test_a_row_sees_the_latest_run_of_adjacent_images(
    oracle: Reference, tile: int
) -> None:
    def mask_of(name: str) -> tuple[np.ndarray, np.ndarray]:
        prompt = oracle.prompt(case(name, tile).messages)
        assert prompt.cross_attention_mask is not None
        return prompt.cross_attention_mask.sum(axis=-1), image_rows(oracle, prompt)

    # Within a run the row of an image token does not see the images after it.
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


def test_an_earlier_image_reaches_later_rows_through_earlier_rows_only(
    oracle: Reference, tile: int
) -> None:
    # Masking the first image changes later rows (self-attention carries it on).
    prompt = oracle.prompt(case("image_per_turn", tile).messages)
    tensors = dict(prompt.tensors)
    tensors["cross_attention_mask"] = tensors["cross_attention_mask"].clone()
    tensors["cross_attention_mask"][:, :, 0] = 0
    change = np.abs(oracle.logits(tensors) - oracle.logits(prompt.tensors))
    assert change[-1].max() > 1e-2


@pytest.mark.parametrize("name", [*FEW, "two_images_in_one_turn", "image_per_turn"])
def test_decoding_repeats_the_last_row_of_the_mask(
    oracle: Reference, tile: int, name: str
) -> None:
    prompt = oracle.prompt(case(name, tile).messages)
    decoded = oracle.decode(case(name, tile).messages)
    whole = oracle.logits(last_row_repeated(prompt, decoded.token_ids[:-1]))
    steps = whole[len(prompt.token_ids) - 1 :]
    assert_close(decoded.logits, steps, what=name, tolerance=1e-5)
    chosen = steps.argmax(axis=-1).tolist()
    assert_same_tokens(decoded.token_ids, chosen, what=name, logits=steps)


def test_vision_stages_and_cross_kv_are_those_of_the_model(
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
            for made, kept in zip(pair, (layer.keys, layer.values), strict=True):
                expected = kept[0, :, rows].transpose(0, 1).numpy()
                assert_close(made, expected, what=f"layer {index}", tolerance=1e-5)


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
    # The reason why padding tiles can't be dropped from the vision encoder.
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


def test_eager_attention_agrees(oracle: Reference, tile: int) -> None:
    eager = Reference(checkpoint(), attention="eager")
    for name in FEW:
        messages = case(name, tile).messages
        expected = oracle.prefill(messages)
        assert_close(eager.prefill(messages), expected, what=name, tolerance=1e-4)
