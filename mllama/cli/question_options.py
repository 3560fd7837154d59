"""Options of ``generate``, ``explain`` and ``chat``, which ask questions."""

from __future__ import annotations

from typing import Final

from mllama.cli.option_sections import OUTPUT, SERVER
from mllama.launch.option import ANSWER, QUESTION, Option

QUESTION_OPTIONS: Final = (
    Option(
        name="prompt",
        section=QUESTION,
        takers=("generate", "explain"),
        kind="text",
        description="The question.",
    ),
    Option(
        name="images",
        flag="--image",
        section=QUESTION,
        takers=("generate", "chat", "explain"),
        kind="path",
        metavar="IMAGE",
        repeatable=True,
        description="An image to show before the question: a path, an http(s) URL or a "
        "data URL.",
    ),
    Option(
        name="system",
        section=QUESTION,
        takers=("generate", "chat", "explain"),
        kind="text",
        description="A system prompt.",
    ),
    Option(
        name="raw",
        section=QUESTION,
        takers=("generate",),
        kind="flag",
        description="Continue the prompt as it is, without the chat template. "
        "<|image|> in it stands for an image.",
    ),
    Option(
        name="prompt_token_ids",
        section=QUESTION,
        takers=("generate",),
        kind="text",
        metavar="IDS",
        description="Ids of tokens to continue, separated by commas, instead of "
        "--prompt.",
    ),
    Option(
        name="messages",
        section=QUESTION,
        takers=("generate",),
        kind="path",
        metavar="FILE",
        description="A JSON file instead of --prompt, --image and --system: a list of "
        "OpenAI-style messages, or a list of such conversations, which are answered "
        "together. An image_url may be a path relative to the file. - reads stdin.",
    ),
)

EXPLAIN_OPTIONS: Final = (
    Option(
        name="layers",
        section=OUTPUT,
        takers=("explain",),
        kind="text",
        metavar="LAYERS",
        default="all",
        description="The cross-attention layers whose heads are shown: all, last, or "
        "their numbers, separated by commas.",
    ),
    Option(
        name="heads",
        section=OUTPUT,
        takers=("explain",),
        kind="text",
        metavar="HEADS",
        default="localizing",
        description="The heads that maps are the mean of: localizing (the clearest "
        "one), all, numbers, or LAYER.HEAD, separated by commas.",
    ),
    Option(
        name="with_prompt",
        section=OUTPUT,
        takers=("explain",),
        kind="flag",
        description="Show the words of the prompt too.",
    ),
    Option(
        name="output",
        section=OUTPUT,
        takers=("explain",),
        kind="path",
        metavar="FILE",
        required=True,
        description="File to write, by its ending: .html (hover over a word), .png (a "
        "panel for each word) or .json.",
    ),
)

CHAT_OPTIONS: Final = (
    Option(
        name="url",
        section=SERVER,
        takers=("chat",),
        kind="text",
        metavar="URL",
        description="Chat with a server of OpenAI's API instead of a model in this "
        "process, such as http://127.0.0.1:8000. --model is the model's name there.",
        details="Without --model, it is the first model that the server lists.",
        default_text="a model in this process",
    ),
    Option(
        name="api_key",
        section=SERVER,
        takers=("chat",),
        kind="text",
        metavar="KEY",
        description="Key for the server.",
        default_text="OPENAI_API_KEY of the environment",
    ),
    Option(
        name="verbose",
        section=OUTPUT,
        takers=("chat",),
        kind="flag",
        description="Show token counts and times after each answer.",
    ),
    Option(
        name="no_history",
        section=OUTPUT,
        takers=("chat",),
        kind="flag",
        description="Neither read nor write the file with the lines of earlier chats.",
    ),
)

OUTPUT_OPTIONS: Final = (
    Option(
        name="output_format",
        flag="--format",
        section=ANSWER,
        takers=("generate",),
        kind="text",
        choices=("text", "json"),
        default="text",
        description="text streams the answer. json prints one object per conversation, "
        "each on a line, with token counts and times.",
    ),
)
