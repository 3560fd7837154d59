"""A chat template is found in every layout and accepts system messages with images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mllama.errors import CheckpointError, MllamaError
from mllama.max_model.chat_template import ChatTemplateError
from mllama.max_model.chat_template_files import (
    check_chat_template,
    find_chat_templates,
)
from tests.reference.checkpoints import checkpoint
from tests.reference.prompts import prompt_text

# Like Meta's template: it takes the system message as a string, rejects it beside an
# image, and writes a system turn only if there are no images.
REFUSING = """\
{{- bos_token }}
{%- set system, rest = '', messages %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system, rest = messages[0]['content'] | trim, messages[1:] %}
{%- endif %}
{%- set seen = namespace(images=false) %}
{%- for message in rest %}{% if message['content'] is not string %}
    {%- for part in message['content'] %}
        {%- if part['type'] == 'image' %}{% set seen.images = true %}{% endif %}
    {%- endfor %}
{%- endif %}{% endfor %}
{%- if seen.images and system %}
    {{- raise_exception("Images are incompatible with system messages.") }}
{%- endif %}
{%- if not seen.images %}
    {{- '<|start_header_id|>system<|end_header_id|>\n\n' + system + '<|eot_id|>' }}
    {%- if tools and tools | length > 1 %}
        {{- raise_exception("Only one tool.") }}
    {%- endif %}
    {%- for tool in tools or [] %}
        {{- tool.function.name + ' for ' + rest[0]['content'] | trim }}
    {%- endfor %}
    {%- set rest = rest[1:] if tools else rest %}
{%- endif %}
{%- for message in rest %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {%- if message['content'] is string %}{{ message['content'] }}{% else %}
    {%- for part in message['content'] %}
        {{- '<|image|>' if part['type'] == 'image' else part['text'] }}
    {%- endfor %}{% endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}"""

TEXT = {"type": "text", "text": "What is it?"}
SYSTEM = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
SYSTEM_TURN = "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
USER_TURN = "<|start_header_id|>user<|end_header_id|>\n\n{}What is it?<|eot_id|>"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(checkpoint())


def user(*parts: dict[str, str]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def render(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    return prompt_text(tokenizer, REFUSING, messages, **options)


def test_system_message_works_together_with_an_image(tokenizer: Any) -> None:
    rendered = render(tokenizer, [SYSTEM, user({"type": "image"}, TEXT)])
    assert rendered == "<|begin_of_text|>" + SYSTEM_TURN + USER_TURN.format("<|image|>")


def test_system_message_without_image_is_the_templates_own(tokenizer: Any) -> None:
    rendered = render(tokenizer, [SYSTEM, user(TEXT)])
    assert rendered == "<|begin_of_text|>" + SYSTEM_TURN + USER_TURN.format("")


def test_image_without_system_message_gets_no_system_turn(tokenizer: Any) -> None:
    rendered = render(tokenizer, [user({"type": "image"}, TEXT)])
    assert rendered == "<|begin_of_text|>" + USER_TURN.format("<|image|>")


def test_tools_beside_an_image_keep_the_image_and_the_question(tokenizer: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    rendered = render(tokenizer, [user({"type": "image"}, TEXT)], tools=tools)
    assert rendered.endswith("f for <|image|>What is it?")


def test_other_errors_of_the_template_are_reported(tokenizer: Any) -> None:
    with pytest.raises(ChatTemplateError, match="rejects the messages"):
        render(tokenizer, [user(TEXT)], tools=[{"name": "f"}, {"name": "g"}])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("chat_template.jinja", "{{ bos_token }}"),
        ("chat_template.json", {"chat_template": "{{ bos_token }}"}),
        ("processor_config.json", {"chat_template": "{{ bos_token }}"}),
        ("tokenizer_config.json", {"chat_template": "{{ bos_token }}"}),
        (
            "tokenizer_config.json",
            {
                "chat_template": [
                    {"name": "tool_use", "template": "no"},
                    {"name": "default", "template": "{{ bos_token }}"},
                ]
            },
        ),
    ],
)
def test_template_is_found_in_every_layout(
    tmp_path: Path, file: str, content: Any
) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert find_chat_templates(tmp_path)["default"] == "{{ bos_token }}"


def test_base_models_have_no_template(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    assert find_chat_templates(tmp_path) == {}


def test_the_template_for_tools_is_found(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("default")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert find_chat_templates(tmp_path) == {"default": "default", "tool_use": "tools"}


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json can't be read"):
        find_chat_templates(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "can't be read"),
        ("{% if %}", "is not valid Jinja"),
        ('{"chat_template": 3}', "holds no chat template"),
        ('{"chat_template": [{"name": "tool_use", "template": ""}]}', "holds no chat"),
    ],
)
def test_a_bad_template_file_is_refused_before_the_model_is_loaded(
    tmp_path: Path, content: str | None, complaint: str
) -> None:
    path = tmp_path / "template"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(MllamaError, match=complaint):
        check_chat_template(path)


@pytest.mark.parametrize(
    "content",
    [
        REFUSING,
        json.dumps({"chat_template": REFUSING}),
        json.dumps({"chat_template": [{"name": "default", "template": REFUSING}]}),
    ],
)
def test_a_template_file_is_jinja_or_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "template").write_text(content, encoding="utf-8")
    check_chat_template(tmp_path / "template")
