"""The protocol of an engine's process: a line of JSON in, a line of JSON out.

It uses only the standard library, because it runs in every engine's environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any


def answer_requests(load: Callable[[], Mapping[str, Callable[..., Any]]]) -> None:
    """Loads an engine and answers until stdin ends.

    What a library prints goes to stderr, as stdout carries the answers.

    Args:
        load: Gives the functions by their names in requests; it runs first, and its
            end is told like an answer.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    functions = _answered(answers, load)
    for line in sys.stdin:
        if functions is None:
            return
        request = json.loads(line)
        function = functions[request.pop("do")]
        _answered(answers, partial(function, **request))


def _answered(answers: Any, function: Callable[[], Any]) -> Any:
    """Calls a function and sends what it returns, or how it failed."""
    try:
        result = function()
    except Exception as error:
        sys.excepthook(*sys.exc_info())
        text = " ".join(f"{type(error).__name__}: {error}".split())
        answers.write(json.dumps({"error": text[:300]}) + "\n")
        return None
    sent = None if isinstance(result, Mapping) and _callables(result) else result
    answers.write(json.dumps({"result": sent}) + "\n")
    return result


def _callables(result: Mapping[str, Any]) -> bool:
    return bool(result) and all(map(callable, result.values()))
