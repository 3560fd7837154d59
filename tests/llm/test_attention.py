"""Where the words of an answer looked, through the Python API."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo.evaluate import example
from mllama import LLM
from mllama.engine.attention.attention import Attention
from mllama.errors import MllamaError
from mllama.runtime.attention import mapper

PICTURE, QUESTION, ANSWER = example()


@pytest.fixture(scope="module")
def attention(llm: LLM) -> Attention:
    output = llm.generate(QUESTION, [PICTURE], attention=True)
    assert output.text == ANSWER
    assert output.attention is not None
    return output.attention


def test_each_word_looks_at_its_shape(attention: Attention) -> None:
    # A green circle left of a red circle.
    colors = np.asarray(PICTURE, np.int64)
    green = colors[..., 1] > colors[..., 0] + 60
    red = colors[..., 0] > colors[..., 1] + 60
    for word, shape in ((1, green), (2, green), (6, red), (7, red)):
        grid = attention.images[0].grid
        row, column = np.unravel_index(
            attention.map(word).argmax(), attention.map(word).shape
        )
        left, top, right, bottom = grid.box(int(row), int(column))
        assert shape[int((top + bottom) / 2), int((left + right) / 2)], word


def test_the_shares_of_a_token_add_up(attention: Attention) -> None:
    (image,) = attention.images
    total = image.maps.sum((1, 2)) + image.class_mass + image.padding_mass
    np.testing.assert_allclose(total, 1, atol=1e-5)
    assert attention.maps[0].shape == (len(attention.tokens), 7, 8)
    assert "".join(t.text for t in attention.tokens if not t.is_special) == ANSWER


def test_a_plain_answer_has_none(llm: LLM) -> None:
    assert llm.generate(QUESTION, [PICTURE]).attention is None


def test_an_answer_without_images_has_words_and_no_maps(llm: LLM) -> None:
    attention = llm.generate("Hello", attention=True).attention
    assert attention is not None
    assert attention.words
    assert attention.maps == []
    with pytest.raises(MllamaError, match="no images"):
        attention.overlay(0)


def test_several_images_answers_and_the_prompt(
    llm: LLM, pictures: list[Image.Image]
) -> None:
    parts = [{"type": "image", "image": each} for each in (*pictures, PICTURE)]
    parts.insert(2, {"type": "text", "text": "And"})
    content = [*parts, {"type": "text", "text": QUESTION}]
    output = llm.chat(
        [{"role": "user", "content": content}],
        n=2,
        temperature=0,
        attention={"prompt": True, "heads": "all", "layers": "last"},
    )
    first, second = (choice.attention for choice in output.choices)
    assert first is not None
    assert second is not None
    assert first.heads == [(3, head) for head in range(4)]
    word = first.word("And")
    assert word.is_prompt
    masses = np.array([image.maps[word.start].sum() for image in first.images])
    assert masses[2] == 0
    assert (masses[:2] > 0).all()
    # The answer looks at the last run alone.
    after = next(each for each in first.words if not each.is_prompt)
    assert first.image_of(after) == 2
    assert first.images[0].maps[after.at].sum() == 0
    for mine, other in zip(first.maps, second.maps, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)


def test_a_stream_has_attention_at_its_end(llm: LLM, attention: Attention) -> None:
    with llm.generate(QUESTION, [PICTURE], stream=True, attention=True) as generation:
        text = "".join(chunk.text for chunk in generation)
    found = generation.output.attention
    assert found is not None
    assert found is generation.output.attention
    assert found.answer == text
    np.testing.assert_allclose(found.maps[0], attention.maps[0], atol=1e-6)


def test_attention_leaves_no_image_pinned_and_encodes_none_again(llm: LLM) -> None:
    before = llm.image_cache
    llm.generate(QUESTION, [PICTURE], attention=True)
    after = llm.image_cache
    assert after.pinned == 0
    assert after.misses == before.misses


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"layers": [2]}, "layer 2 has no cross-attention"),
        ({"heads": [9]}, "there is no head 9"),
        ("all", "attention must be true, false or an object"),
    ],
)
def test_wrong_choices_are_refused_before_the_answer(
    llm: LLM, value: Any, message: str
) -> None:
    with pytest.raises(MllamaError, match=message):
        llm.generate(QUESTION, [PICTURE], stream=True, attention=value)


def test_a_prompt_that_takes_too_much_memory_is_refused(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapper, "MAX_CACHE_BYTES", 1 << 18)
    with pytest.raises(MllamaError, match=r"of \d+ tokens take .* of memory"):
        llm.generate(QUESTION, [PICTURE], stream=True, attention=True)


def test_words_are_found_by_text_and_number(attention: Attention) -> None:
    assert attention.word("circle") is attention.words[2]
    assert attention.word("GREEN") is attention.words[1]
    assert attention.word(-1).text == "circle"
    for wrong in ("blue", 99):
        with pytest.raises(MllamaError, match=f"no word '?{wrong}"):
            attention.word(wrong)
    with pytest.raises(MllamaError, match="there is no image 1"):
        attention.map("circle", 1)


def test_an_overlay_is_brightest_where_the_map_is(attention: Attention) -> None:
    overlay = attention.overlay("red")
    assert overlay.size == PICTURE.size
    warm = np.asarray(overlay, np.int64)
    warm = warm[..., 0] - warm[..., 2]
    row, column = np.unravel_index(warm.argmax(), warm.shape)
    expected = np.unravel_index(attention.map("red").argmax(), (7, 8))
    left, top, right, bottom = attention.images[0].grid.box(*map(int, expected))
    assert left - 20 <= column <= right + 20
    assert top - 20 <= row <= bottom + 20


def test_files_are_written_by_their_ending(
    attention: Attention, tmp_path: Path
) -> None:
    attention.save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000
    attention.save(str(tmp_path / "maps.json"))
    data = json.loads((tmp_path / "maps.json").read_text())
    assert data["answer"] == ANSWER
    word = data["words"][7]
    assert word["text"] == "circle"
    (image,) = word["images"]
    assert set(image) == {"grid", "rectangle", "class_tokens", "padding"}
    np.testing.assert_allclose(image["grid"], attention.map(7), atol=1e-6)
    assert image["rectangle"][2:] >= [PICTURE.width, PICTURE.height]
    attention.save(tmp_path / "page.html")
    assert "<script>" in (tmp_path / "page.html").read_text()
    with pytest.raises(MllamaError, match=r"ends in .png, .html or .json"):
        attention.save(tmp_path / "maps.gif")
    with pytest.raises(MllamaError, match="there is no directory"):
        attention.save(tmp_path / "none" / "maps.png")


def test_nothing_in_a_page_is_markup(llm: LLM, tmp_path: Path) -> None:
    content = io.BytesIO()
    PICTURE.save(content, "PNG")
    image = {"type": "image", "image": content.getvalue()}
    evil = "</script><img src=x onerror=alert(1)> <!-- {} circle"
    output = llm.chat(
        [
            {"role": "user", "content": [image]},
            {"role": "assistant", "content": evil},
            {"role": "user", "content": QUESTION},
        ],
        max_new_tokens=4,
        attention={"prompt": True},
    )
    assert output.attention is not None
    output.attention.save(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert len(re.findall("<script", text)) == 2
    assert len(re.findall("</script", text)) == 2
    assert "<img" not in text
    assert "<!--" not in text
    assert "http" not in re.sub(r'http-equiv|base64,[^"]*', "", text)
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    joined = "".join(each["text"] for each in json.loads(data[1])["segments"])
    assert "onerror=alert(1)" in joined
    # The policy allows this script and this style alone.
    for element in ("script", "style"):
        (inline,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{element}-src &#x27;sha256-{digest}&#x27;;" in text


def test_maps_are_the_same_while_other_requests_run(
    llm: LLM, attention: Attention, pictures: list[Image.Image]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        others = [
            pool.submit(llm.generate, "Describe it.", pictures, max_new_tokens=30)
            for _ in range(12)
        ]
        asked = [
            pool.submit(llm.generate, QUESTION, [PICTURE], attention=True)
            for _ in range(6)
        ]
        texts = {each.result().text for each in others}
        found = [each.result().attention for each in asked]
    assert len(texts) == 1
    for each in found:
        assert each is not None
        np.testing.assert_allclose(each.maps[0], attention.maps[0], atol=1e-5)
