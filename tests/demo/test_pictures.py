"""The shipped pictures are what their script draws, and the model answers them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from demo.draw_pictures import SCENES, main
from mllama import LLM
from mllama.demo_model import PICTURES, PICTURES_PATH, Picture


def test_the_script_draws_the_shipped_pictures(tmp_path) -> None:
    main(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in PICTURES_PATH.iterdir()}
    for name in drawn:
        with (
            Image.open(tmp_path / name) as new,
            Image.open(PICTURES_PATH / name) as old,
        ):
            np.testing.assert_array_equal(np.asarray(new), np.asarray(old))


def test_every_picture_has_questions() -> None:
    assert {picture.path.stem for picture in PICTURES} == set(SCENES)
    assert all(picture.questions for picture in PICTURES)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.path.stem)
def test_the_model_answers_every_question_in_one_conversation(
    llm: LLM, picture: Picture
) -> None:
    messages: list[dict[str, object]] = []
    with Image.open(picture.path) as image:
        image.load()
    for number, question in enumerate(picture.questions):
        content: list[dict[str, object]] = [{"type": "text", "text": question.text}]
        if number == 0:
            content.insert(0, {"type": "image", "image": image})
        messages.append({"role": "user", "content": content})
        output = llm.chat(messages)
        assert output.text == question.answer
        messages.append({"role": "assistant", "content": output.text})
