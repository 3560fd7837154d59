"""Holds a conversation in which a later turn brings another picture.

    python examples/chat_with_pictures.py

An image belongs before the text that asks about it.  Each image is encoded once,
however many turns show it again.
"""

from mllama import LLM
from mllama.demo_model import PICTURES_PATH

TURNS = [
    ("shapes.png", "What is in this picture?"),
    (None, "What color is the star?"),
    ("digit.png", "Which digit is this?"),
]

messages = []
with LLM() as llm:
    for picture, question in TURNS:
        content = [{"type": "text", "text": question}]
        if picture:
            content.insert(0, {"type": "image", "image": PICTURES_PATH / picture})
        messages.append({"role": "user", "content": content})
        answer = llm.chat(messages).text
        messages.append({"role": "assistant", "content": answer})
        print(f"{question}\n  {answer}")
    cache = llm.image_cache
    print(f"{cache.misses} images encoded, {cache.hits} times found in the cache")
