"""Lets the model call tools about a picture, and gives it their results.

    python examples/tool_loop.py

The demo model never learned to call tools, so that the first call is forced; its
arguments fit the tool's schema in any case.  Models that call tools by themselves need
no ``tool_choice``.
"""

import json

from mllama import LLM
from mllama.demo_model import PICTURES_PATH

PRICES = {"circle": 3, "square": 4, "star": 5}


def look_up_price(kind: str, pieces: int) -> str:
    """Returns what so many pieces of a shape cost."""
    return f"{pieces * PRICES[kind]} coins"


FUNCTIONS = {"look_up_price": look_up_price}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up_price",
            "description": "Returns what so many pieces of a shape cost.",
            "parameters": {
                "type": "object",
                "properties": {
                    "kind": {"enum": list(PRICES)},
                    "pieces": {"type": "integer", "minimum": 1, "maximum": 9},
                },
                "required": ["kind", "pieces"],
            },
            "strict": True,
        },
    }
]

messages = [
    {
        "role": "user",
        "content": [
            {"type": "image", "image": PICTURES_PATH / "shapes.png"},
            {"type": "text", "text": "What does the shape at the left cost?"},
        ],
    }
]
choice = "required"
with LLM() as llm:
    while True:
        output = llm.chat(
            messages, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False
        )
        messages.append(output.message)
        if not output.tool_calls:
            break
        for call in output.tool_calls:
            result = FUNCTIONS[call.name](**json.loads(call.arguments))
            print(f"{call.name}({call.arguments}) -> {result}")
            messages.append(
                {"role": "tool", "tool_call_id": call.id, "content": result}
            )
        choice = "auto"
print(output.text)
