"""Asks a running server about a picture with OpenAI's client (``pip install openai``).

    mllama serve
    python examples/openai_client.py

Give another server's address as the argument.
"""

import base64
import sys

from openai import OpenAI

from mllama.demo_model import PICTURES_PATH

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=url, api_key="not needed")

picture = base64.b64encode((PICTURES_PATH / "shapes.png").read_bytes()).decode()
stream = client.chat.completions.create(
    model=client.models.list().data[0].id,
    messages=[
        {
            "role": "user",
            "content": [
                {
                    "type": "image_url",
                    "image_url": {"url": f"data:image/png;base64,{picture}"},
                },
                {"type": "text", "text": "What is in this picture?"},
            ],
        }
    ],
    stream=True,
)
for event in stream:
    for choice in event.choices:
        print(choice.delta.content or "", end="", flush=True)
print()
