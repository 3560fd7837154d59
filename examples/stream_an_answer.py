"""Prints an answer while the model writes it.

    python examples/stream_an_answer.py

Leaving the ``with`` block early cancels the rest of the answer.
"""

from mllama import LLM
from mllama.demo_model import PICTURES_PATH

with (
    LLM() as llm,
    llm.generate(
        "What is in this picture?", [PICTURES_PATH / "row.png"], stream=True
    ) as answer,
):
    for chunk in answer:
        print(chunk.text, end="", flush=True)
    output = answer.output
    print(f"\n({output.finish_reason}, {output.completion_tokens} tokens)")
