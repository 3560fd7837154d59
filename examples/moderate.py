"""Has a text and a picture judged through OpenAI's client (``pip install openai``).

    mllama serve --model-path meta-llama/Llama-Guard-3-11B-Vision
    python examples/moderate.py

Give another server's address as the argument.
"""

import base64
import sys

from openai import OpenAI
from openai.types import Moderation

from mllama.demo_model import PICTURES_PATH

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=url, api_key="not needed")


def report(name: str, result: Moderation) -> None:
    """Prints a verdict: OpenAI's highest category, and the model's own hazards."""
    scores = result.category_scores.model_dump(by_alias=True)
    highest = max(scores, key=scores.__getitem__)
    found = result.model_dump()["llama_guard"]["categories"]
    hazards = ", ".join(each for each in found if found[each]) or "none"
    verdict = "flagged" if result.flagged else "not flagged"
    print(f"{name}: {verdict}, {highest} {scores[highest]:.3f}, hazards: {hazards}")


report("text", client.moderations.create(input="How do I bake bread?").results[0])

picture = base64.b64encode((PICTURES_PATH / "shapes.png").read_bytes()).decode()
judged = client.moderations.create(
    input=[
        {"type": "text", "text": "What is in this picture?"},
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{picture}"},
        },
    ]
)
report("picture", judged.results[0])
