"""A request for an answer, whoever asks: the server's APIs, ``LLM``, the commands."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from mllama.errors import RequestError, quoted
from mllama.requests.attention import AttentionOptions
from mllama.requests.chat_prompt import ChatPrompt, ChatPromptFields
from mllama.requests.format_settings import FormatFields, output_format_from_settings
from mllama.requests.output_format import OutputFormat
from mllama.requests.sampling_params import AnswerFields, Sampling

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mllama.images.preprocess import ImageTiles

MAX_CHOICES: Final = 128
"""The limit of OpenAI's API."""


class ChatFields(ChatPromptFields, AnswerFields, total=False):
    """The settings of a chat, for functions that pass them on."""


class ImageLoader(Protocol):
    """Images that are loaded when the engine comes to need them."""

    def __len__(self) -> int:
        """Returns the number of images."""
        ...

    def load(self) -> Awaitable[Sequence[ImageTiles]]:
        """Returns the images in order.

        Raises:
            ImageError: If one can't be used.
        """
        ...


async def load_images(
    images: Sequence[ImageTiles | Future[ImageTiles]] | ImageLoader,
) -> Sequence[ImageTiles | Future[ImageTiles]]:
    """Returns the images of a request, or the preparation of each.

    Raises:
        ImageError: If one can't be loaded.
    """
    return images if isinstance(images, Sequence) else await images.load()


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A request for one or several answers to one prompt.

    Attributes:
        prompt: Messages; or a text that is tokenized as it is, in which special tokens
            are special; or the ids of tokens.
        images: The prompt's images in order, or the preparation of each, or what loads
            them.
        sampling: How tokens are chosen, and when an answer ends.
        choices: Number of answers; choice ``i`` uses the seed ``seed + i``.
        output_format: The format that each answer must have; None is any.
        attention: The attention maps that each answer comes with; None is none.

    Raises:
        RequestError: If the number of answers is out of range, the prompt is empty or
            of another type, or a setting would end an answer within its format.
    """

    prompt: ChatPrompt | str | Sequence[int]
    images: Sequence[ImageTiles | Future[ImageTiles]] | ImageLoader = ()
    sampling: Sampling = field(default_factory=Sampling)
    choices: int = 1
    output_format: OutputFormat | None = None
    attention: AttentionOptions | None = None

    @property
    def prompt_field(self) -> str:
        """Returns the name that the prompt has in a body, for errors."""
        return "messages" if isinstance(self.prompt, ChatPrompt) else "prompt"

    def __post_init__(self) -> None:
        check_choices(self.choices)
        if self.output_format is not None:
            check_format(self.output_format, self.sampling)
        if isinstance(self.prompt, ChatPrompt):
            return
        if isinstance(self.prompt, bytes) or not isinstance(self.prompt, Sequence):
            raise RequestError(
                "prompt must be messages, a text or a list of token ids, not "
                f"{quoted(self.prompt)}",
                "prompt",
            )
        if not self.prompt:
            raise RequestError("prompt must not be empty", "prompt")


def check_format(output_format: Any, sampling: Sampling) -> None:
    """Checks that nothing but its format ends an answer, beside its greatest length.

    Raises:
        RequestError: If the format is of another type, or a setting ends answers.
    """
    if not isinstance(output_format, OutputFormat):
        raise RequestError(
            f"output_format must be an OutputFormat, not {quoted(output_format)}",
            "output_format",
        )
    for name in ("stop", "stop_token_ids", "ignore_eos"):
        if getattr(sampling, name):
            reason = (
                "the format says where an answer ends"
                if name == "ignore_eos"
                else "an answer could end within its format"
            )
            raise RequestError(
                f"{name} can't be combined with {output_format.path}: {reason}", name
            )


def check_answer_fields(fields: Mapping[str, Any]) -> None:
    """Checks the settings of answers before there is a prompt.

    Args:
        fields: Values of ``AnswerFields``.

    Raises:
        RequestError: If a value is wrong, or several are wrong together.
    """
    formats = {k: v for k, v in fields.items() if k in FormatFields.__optional_keys__}
    check_choices(fields.get("n", 1))
    sampling = Sampling(
        **{k: v for k, v in fields.items() if k != "n" and k not in formats}
    )
    output_format = output_format_from_settings(**formats)
    if output_format is not None:
        check_format(output_format, sampling)


def check_choices(choices: Any) -> None:
    """Checks a number of answers.

    Raises:
        RequestError: If it is no integer, or out of range.
    """
    is_integer = isinstance(choices, int) and not isinstance(choices, bool)
    if not is_integer or not 1 <= choices <= MAX_CHOICES:
        raise RequestError(
            f"the number of answers must be an integer from 1 to {MAX_CHOICES}, not "
            f"{quoted(choices)}",
            "choices",
        )
