"""JSON as short as it can be."""

from __future__ import annotations

import json
from typing import Any


def compact(value: Any) -> str:
    """Returns JSON without spaces, in characters rather than escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
