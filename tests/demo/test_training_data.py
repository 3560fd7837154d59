"""Training data equals what transformers' processor makes of the same pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from transformers import AutoProcessor  # noqa: E402

from demo.data.conversations import (  # noqa: E402
    KINDS,
    messages,
    random_conversation,
    small_talk,
)
from demo.data.drawing import render  # noqa: E402
from demo.data.scenes import LAYOUTS, random_scene  # noqa: E402
from demo.training.architecture import build  # noqa: E402
from demo.training.packing import Encoder, PackedSequence, collate  # noqa: E402
from demo.training.pixels import cut, normalize  # noqa: E402
from demo.training.scoring import answer_logits, vision_states  # noqa: E402
from demo.training.tokenizer import special_ids  # noqa: E402
from mllama.demo_model import MODEL_PATH  # noqa: E402


@pytest.fixture(scope="module")
def processor() -> object:
    return AutoProcessor.from_pretrained(MODEL_PATH)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_tiles_equal_those_of_the_processor(processor, layout) -> None:
    for seed in range(4):
        scene = random_scene(np.random.default_rng(seed), layout=layout)
        picture = render(scene)
        tiles = cut(picture)
        wanted = processor.image_processor([[picture]], return_tensors="pt")
        valid = torch.tensor([i < tiles.count for i in range(4)])
        ours = normalize(torch.from_numpy(tiles.pixels), valid)
        torch.testing.assert_close(
            ours, wanted["pixel_values"][0, 0].float(), rtol=0, atol=1e-5
        )
        assert tiles.ratio_id == int(wanted["aspect_ratio_ids"][0, 0])
        assert tiles.count == int(wanted["aspect_ratio_mask"][0, 0].sum())
        if layout in ((1, 1), (2, 2)):
            assert (tiles.high, tiles.wide) == layout


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_masks_equal_those_of_the_processor(processor, kind) -> None:
    encoder = Encoder(processor.tokenizer)
    for seed in range(6):
        conversation, scenes = random_conversation(np.random.default_rng(seed), kind)
        pictures = [render(scene) for scene in scenes]
        sent = messages(conversation, pictures)
        text = processor.apply_chat_template(sent, add_generation_prompt=True)
        wanted = processor(
            text=text, images=[pictures], add_special_tokens=False, return_tensors="pt"
        )
        prompt = wanted["input_ids"][0].tolist()
        block = encoder(conversation)
        assert block.ids[: len(prompt)] == prompt
        answer = processor.tokenizer.decode(block.ids[len(prompt) :])
        assert answer == f"{conversation.answer}<|eot_id|>"
        batch = collate(
            [PackedSequence(scenes, [cut(p) for p in pictures], [block])], encoder, 0
        )
        ours = batch["cross_attention_mask"][0, : len(prompt)]
        assert torch.equal(ours, wanted["cross_attention_mask"][0])


def test_packed_conversations_do_not_attend_to_each_other(processor) -> None:
    """Several conversations in one sequence give the logits of each alone."""
    encoder, rng = Encoder(processor.tokenizer), np.random.default_rng(0)
    model = build(special_ids(processor.tokenizer), seed=0).eval()
    conversation, scenes = random_conversation(rng, "new_picture")
    blocks = [encoder(conversation), encoder(small_talk(rng))]
    blocks.append(encoder(random_conversation(rng, "describe")[0]))
    tiles = [cut(render(scene)) for scene in scenes]

    def logits(chosen):
        batch = collate([PackedSequence(scenes, tiles, chosen)], encoder, 0)
        with torch.no_grad():
            return answer_logits(model, batch, vision_states(model, batch))[0]

    alone = torch.cat([logits([block]) for block in blocks])
    torch.testing.assert_close(logits(blocks), alone, rtol=1e-4, atol=1e-4)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_the_tokenizer_round_trips_any_text(text: str) -> None:
    tokenizer = AutoProcessor.from_pretrained(MODEL_PATH).tokenizer
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
