"""The arguments of a call as an object, for APIs whose answers have them as one."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from pydantic_core import from_json


def arguments_object(arguments: str) -> dict[str, Any]:
    """Returns the arguments of a call, as far as a limit has let them be generated.

    Numbers beyond a float's range are the largest float, and halves of surrogate pairs
    are replaced, since an answer could have neither.

    Args:
        arguments: A JSON object, or the beginning of one.
    """
    try:
        value = json.loads(arguments or "{}", parse_float=_finite)
    except ValueError:
        try:
            # As Anthropic's SDK does with what it has of a stream.
            value = from_json(arguments, allow_partial=True)
        except ValueError:
            return {}
    text = json.dumps(value, ensure_ascii=False).encode(errors="replace")
    read = json.loads(text, parse_float=_finite, parse_constant=_finite)
    return read if isinstance(read, dict) else {}


def _finite(text: str) -> float:
    number = float(text)
    return math.copysign(sys.float_info.max, number) if math.isinf(number) else number
