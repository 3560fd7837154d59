"""Checks the question that is asked about many pictures, before anything is loaded."""

from __future__ import annotations

from mllama.batch.inputs.question import Question
from mllama.errors import MllamaError
from mllama.server.bodies.parsing import parse_body
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.dialects.openai.chat_body import ChatBody
from mllama.server.dialects.openai.format_translation import openai_output_format


def check_question(question: Question) -> None:
    """Checks a question, whose wrong values are wrong for all pictures.

    Raises:
        MllamaError: If a value can't be used.
    """
    try:
        openai_output_format(parse_body(ChatBody, question.body([], "x")))
    except RequestRejected as error:
        raise MllamaError(str(error)) from error
