"""The settings of answers, which ``/set`` shows and changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from mllama.errors import MllamaError, RequestError, listed, shortened
from mllama.launch.option import Option
from mllama.launch.sampling_options import SAMPLING_OPTIONS

CHAT_SETTINGS: Final[Mapping[str, Option]] = {
    option.name: option for option in SAMPLING_OPTIONS if "chat" in option.takers
}
"""Descriptions of the settings by their names."""

DEFAULT: Final = "default"
"""The value that resets a setting."""


class AnswerSettings:
    """Settings of answers that differ from the defaults.

    Args:
        values: The options of the command line.

    Raises:
        MllamaError: If a value is out of range.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values: dict[str, Any] = {}
        self._replace(
            {
                name: list(value) if CHAT_SETTINGS[name].repeatable else value
                for name, value in values.items()
                if value not in (CHAT_SETTINGS[name].default, None, ())
            }
        )

    @property
    def engine_fields(self) -> dict[str, Any]:
        """Returns the settings as arguments of ``LLM.chat``."""
        return dict(self._values)

    @property
    def request_fields(self) -> dict[str, Any]:
        """Returns the settings as fields of a request."""
        fields: dict[str, Any] = {}
        for name, value in self._values.items():
            field = CHAT_SETTINGS[name].request_field
            assert field is not None
            fields[field] = value
        return fields

    @property
    def limits_answers(self) -> bool:
        """Returns True if answers have a limit of their own, beside the context's."""
        return "max_new_tokens" in self._values

    def set(self, name: str, text: str) -> None:
        """Changes a setting.

        Args:
            name: Its name, with dashes or underscores.
            text: The value as it is typed, or "default".

        Raises:
            MllamaError: If there is no such setting, or the value is out of range.
        """
        option = setting_of(name)
        values = dict(self._values)
        values.pop(option.name, None)
        if text != DEFAULT:
            value = _parsed(option, text)
            if value != option.default:
                values[option.name] = value
        self._replace(values)

    def _replace(self, values: dict[str, Any]) -> None:
        from mllama.requests.request import check_answer_fields

        check_answer_fields(values)
        self._values = values

    def describe(self) -> list[str]:
        """Returns a line for each setting: its value, or its default."""
        width = max(map(len, CHAT_SETTINGS))
        return [
            f"{name:{width}}  {json.dumps(self._values[name], ensure_ascii=False)}"
            if name in self._values
            else f"{name:{width}}  (default: {option.shown_default})"
            for name, option in CHAT_SETTINGS.items()
        ]


def setting_of(name: str) -> Option:
    """Returns the setting of a name with dashes or underscores.

    Raises:
        MllamaError: If there is none.
    """
    option = CHAT_SETTINGS.get(name.lstrip("-").replace("-", "_"))
    if option is None:
        raise MllamaError(
            f"there is no setting {shortened(name)}; there are "
            f"{listed([*CHAT_SETTINGS, 'verbose'])}"
        )
    return option


def _parsed(option: Option, text: str) -> Any:
    if option.kind == "text":
        return _texts(text)
    try:
        return int(text) if option.kind == "integer" else float(text)
    except ValueError:
        kind = "an integer" if option.kind == "integer" else "a number"
        raise RequestError(
            f"{option.name} must be {kind} or {DEFAULT!r}, not {shortened(text)!r}"
        ) from None


def _texts(text: str) -> list[str]:
    """Returns one text, or the texts of a JSON string or list."""
    if text.startswith(('"', "[")):
        try:
            value = json.loads(text)
        except ValueError:
            return [text]
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return value
    return [text]
