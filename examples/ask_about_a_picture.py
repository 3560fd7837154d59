"""Asks one question about one picture.

    python examples/ask_about_a_picture.py

``LLM()`` is the small demo model; name a directory, a GGUF file or a repository of the
hub for another: ``LLM("meta-llama/Llama-3.2-11B-Vision-Instruct")``.
"""

from mllama import LLM
from mllama.demo_model import PICTURES_PATH

with LLM() as llm:
    output = llm.generate("What is in this picture?", [PICTURES_PATH / "shapes.png"])

print(output.text)
print(
    f"{output.prompt_tokens} prompt tokens, {output.image_tokens} of them the image's; "
    f"first token after {1000 * output.time_to_first_token_seconds:.0f} ms"
)
