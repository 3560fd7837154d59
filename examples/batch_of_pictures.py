"""Asks about many pictures at once, which is faster than one after the other.

    python examples/batch_of_pictures.py

``max_batch_size`` conversations are worked on together; the others wait their turn.
"""

from mllama import LLM
from mllama.demo_model import PICTURES

conversations = [
    [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": picture.path},
                {"type": "text", "text": question.text},
            ],
        }
    ]
    for picture in PICTURES
    for question in picture.questions
]

with LLM(max_batch_size=4) as llm:
    # Yields in the conversations' order, each answer as soon as it is complete.
    for messages, output in zip(conversations, llm.answers(conversations), strict=True):
        image, text = messages[0]["content"]
        print(f"{image['image'].name}: {text['text']} {output.text}")
