"""Requests as applications send them, from their published sources.

Each has a test for whole answers and one for streams where the application uses both:
Home Assistant (``homeassistant/components/ollama``), Frigate (``frigate/genai``), Open
WebUI (``backend/open_webui``: ``routers/ollama.py``, ``utils/payload.py``), Ollama-OCR
(``src/ollama_ocr``).
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, ClassVar

import pytest

from tests.server.dialects.fake_engine import FakeEngine

from .conftest import ONE, TWO, Api, answer_of, error_of, lines_of

TURN_ON = {
    "type": "function",
    "function": {
        "name": "HassTurnOn",
        "description": "Turns on/opens/presses a device or entity.",
        "parameters": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "domain": {"type": "array", "items": {"type": "string"}},
            },
            "required": [],
        },
    },
}
CALL_TEXT = '{"name": "HassTurnOn", "parameters": {"name": "lamp"}}'


class TestHomeAssistant:
    """Home Assistant's conversation: it always streams, and never names calls."""

    SETTINGS: ClassVar[Any] = {
        "model": "llama3.2-vision:latest",
        "stream": True,
        # From a number box, which makes floats.
        "options": {"num_ctx": 8192.0},
        "think": False,
    }

    def test_the_server_is_tried_and_its_models_are_offered(self, api: Api) -> None:
        models = api.request("GET", "/api/tags").json()["models"]
        assert {model["model"] for model in models} == {"served:latest"}

    @pytest.mark.parametrize("keep_alive", [-1, "300s", "0s"])
    def test_a_device_is_turned_on(self, keep_alive: Any) -> None:
        api = Api(FakeEngine(CALL_TEXT))
        messages: list[Any] = [
            {"role": "system", "content": "You control a house."},
            {"role": "user", "content": "Turn on the lamp"},
        ]
        body = {
            **self.SETTINGS,
            "keep_alive": keep_alive,
            "tools": [TURN_ON],
            "messages": messages,
        }
        line, _ = lines_of(api.post("/api/chat", body))
        (call,) = line["message"]["tool_calls"]
        assert call["function"]["name"] == "HassTurnOn"
        assert call["function"]["arguments"] == {"name": "lamp"}
        # The library drops the calls' ids, and results have none.
        function = {"name": "HassTurnOn", "arguments": {"name": "lamp"}}
        messages += [
            {
                "role": "assistant",
                "content": line["message"]["content"],
                "tool_calls": [{"function": function}],
            },
            {"role": "tool", "content": '{"data":{"speech":{}},"error":null}'},
        ]
        api.engine.texts = ["The lamp is on."]
        lines = lines_of(api.post("/api/chat", body))
        text = "".join(each["message"]["content"] for each in lines)
        assert text == "The lamp is on."
        assert api.prompt.messages[3]["tool_call_id"]

    def test_a_task_with_a_picture_and_a_structure_is_done(self) -> None:
        api = Api(FakeEngine('{"cars": 2}'))
        schema = {
            "type": "object",
            "properties": {
                "cars": {"type": "number", "description": "Cars in the driveway"},
                "open": {"type": "boolean"},
                "color": {"type": "string", "enum": ["red", "blue"]},
            },
            "required": ["cars"],
        }
        question = {"role": "user", "content": "How many?", "images": [ONE]}
        body = {**self.SETTINGS, "messages": [question], "format": schema}
        lines = lines_of(api.post("/api/chat", body))
        text = "".join(line["message"]["content"] for line in lines)
        assert json.loads(text) == {"cars": 2}
        assert api.last.output_format is not None
        assert json.loads(api.last.output_format.source) == schema
        assert api.last.images == [b"one"]

    def test_a_history_that_was_cut_at_its_beginning_is_answered(
        self, api: Api
    ) -> None:
        function = {"name": "HassTurnOn", "arguments": {"name": "lamp"}}
        messages = [
            {"role": "system", "content": "You control a house."},
            {"role": "tool", "content": "{}"},
            {"role": "assistant", "content": "Done."},
            {"role": "user", "content": "Again"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": function}, {"function": function}],
            },
            {"role": "tool", "content": "{}"},
            {"role": "tool", "content": "{}"},
        ]
        lines_of(api.post("/api/chat", {**self.SETTINGS, "messages": messages}))
        assert len(api.prompt.messages) == 6


class TestFrigate:
    """Frigate's descriptions of frames, whole, and its chat, which streams."""

    OPTIONS: ClassVar[Any] = {
        "temperature": 0.5,
        "repeat_penalty": 1.05,
        "presence_penalty": 0.3,
    }
    SCHEMA: ClassVar[Any] = {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "potential_threat_level": {"type": "integer"},
            "other_concerns": {
                "anyOf": [
                    {"type": "array", "items": {"type": "string"}},
                    {"type": "null"},
                ],
                "default": None,
            },
        },
        "required": ["title", "potential_threat_level"],
    }

    def test_the_model_is_there_and_does_not_think(self, api: Api) -> None:
        shown = api.post("/api/show", {"model": "llama3.2-vision"}).json()
        assert "error" not in shown
        assert "thinking" not in shown["capabilities"]
        assert "embedding" not in shown["capabilities"]
        error_of(api.post("/api/show", {"model": "llava"}), 404)
        names = [
            each["name"] for each in api.request("GET", "/api/tags").json()["models"]
        ]
        assert names == ["served:latest"]

    def test_frames_of_a_prompt_are_described(self) -> None:
        # Up to 0.17 by /api/generate.
        answer = '{"title": "A cat", "potential_threat_level": 0}'
        api = Api(FakeEngine(answer))
        body = {
            "model": "llama3.2-vision",
            "prompt": "Describe the frames.",
            "images": [ONE, TWO],
            "options": self.OPTIONS,
            "format": self.SCHEMA,
            "stream": False,
            # What the library for Python sends if nothing is given.
            "suffix": "",
            "system": "",
            "template": "",
            "raw": False,
        }
        found = answer_of(api.post("/api/generate", body))
        assert json.loads(found["response"])["title"] == "A cat"
        assert api.last.images == [b"one", b"two"]
        sampling = api.last.sampling
        assert (sampling.temperature, sampling.presence_penalty) == (0.5, 0.3)
        assert sampling.repetition_penalty == 1.05

    def test_frames_stand_beside_their_captions(self, api: Api) -> None:
        content = "Describe.\nFrame 1\n[img]\nFrame 2\n[img]"
        message = {"role": "user", "content": content, "images": [ONE, TWO]}
        body = {
            "model": "llama3.2-vision",
            "messages": [message],
            "options": self.OPTIONS,
            "format": self.SCHEMA,
            "stream": False,
        }
        answer_of(api.post("/api/chat", body))
        kinds = [part["type"] for part in api.prompt.messages[0]["content"]]
        assert kinds == ["text", "image", "text", "image"]

    def test_a_prompts_tokens_are_counted_by_an_answer_of_one(self, api: Api) -> None:
        body = {
            "model": "llama3.2-vision",
            "messages": [{"role": "user", "content": ".", "images": [ONE]}],
            "options": {**self.OPTIONS, "num_predict": 1},
            "stream": False,
        }
        with_image = answer_of(api.post("/api/chat", body))
        assert with_image["eval_count"] == 1
        body["messages"] = [{"role": "user", "content": "."}]
        without = answer_of(api.post("/api/chat", body))
        assert with_image["prompt_eval_count"] > without["prompt_eval_count"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_its_chat_is_answered(self, api: Api, stream: bool) -> None:
        body = {
            "model": "llama3.2-vision",
            "messages": [
                {"role": "system", "content": "You watch cameras."},
                {"role": "user", "content": "Who was there?"},
            ],
            "options": self.OPTIONS,
            "stream": stream,
            **({} if stream else {"tools": [TURN_ON]}),
        }
        response = api.post("/api/chat", body)
        end = lines_of(response)[-1] if stream else answer_of(response)
        assert end["eval_count"] == 7
        assert isinstance(end["eval_duration"], int)


class TestOpenWebUi:
    """Open WebUI, which converts chats of OpenAI's form to Ollama's."""

    def test_the_server_is_found(self, api: Api) -> None:
        version = api.request("GET", "/api/version").json()["version"]
        assert all(part.isdigit() for part in version.split("."))
        models = api.request("GET", "/api/tags").json()["models"]
        loaded = api.request("GET", "/api/ps").json()["models"]
        ends = {
            each["name"]: datetime.fromisoformat(
                each["expires_at"].replace("Z", "+00:00")
            ).timestamp()
            for each in loaded
        }
        assert [each["name"] for each in models] == list(ends)
        assert "details" in models[0]

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_chat_with_a_picture_and_settings_is_answered(
        self, api: Api, stream: bool
    ) -> None:
        body = {
            "model": "served:latest",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "What is this?", "images": [ONE]},
            ],
            "options": {
                "temperature": 0.8,
                "top_p": 0.9,
                "top_k": 40,
                "seed": 42,
                "num_ctx": 2048,
                "num_batch": 512,
                "num_keep": 24,
                "num_predict": 128,
                "num_gpu": 1,
                "use_mmap": True,
                "mirostat": 0,
                "repeat_penalty": 1.1,
                "stop": ["</s>"],
            },
            "keep_alive": "5m",
            "think": False,
            "stream": stream,
        }
        response = api.post("/api/chat", body)
        lines = lines_of(response) if stream else [answer_of(response)]
        assert "".join(line["message"]["content"] for line in lines) == "Hello!"
        assert lines[-1]["done_reason"] == "stop"
        assert api.last.sampling.stop == ("</s>",)
        assert api.last.images == [b"one"]

    @pytest.mark.parametrize("stream", [True, False])
    def test_calls_of_tools_and_their_results_keep_their_ids(
        self, api: Api, stream: bool
    ) -> None:
        function = {"name": "HassTurnOn", "arguments": {"name": "lamp"}}
        body = {
            "model": "served:latest",
            "messages": [
                {"role": "user", "content": "Turn it on"},
                {
                    "role": "assistant",
                    "tool_calls": [{"index": 0, "id": "call_a", "function": function}],
                    "content": "",
                },
                {"role": "tool", "content": "done", "tool_call_id": "call_a"},
            ],
            "tools": [TURN_ON],
            "options": {},
            "stream": stream,
        }
        response = api.post("/api/chat", body)
        _ = lines_of(response) if stream else answer_of(response)
        assert api.prompt.messages[2]["tool_call_id"] == "call_a"

    def test_the_model_is_unloaded_by_an_empty_prompt(self, api: Api) -> None:
        body = {"model": "served:latest", "keep_alive": 0, "prompt": ""}
        answer = api.post("/api/generate", body).json()
        assert answer["done_reason"] == "unload"

    def test_a_setting_that_is_on_and_not_there_is_shown_to_the_user(
        self, api: Api
    ) -> None:
        for stream in (True, False):
            response = api.chat(options={"mirostat": 1}, stream=stream)
            assert "`options.mirostat`" in error_of(response)


class TestOllamaOcr:
    """Ollama-OCR, which asks for whole answers to prompts with one picture."""

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_page_is_read(self, stream: bool) -> None:
        api = Api(FakeEngine("# Title"))
        body = {
            "model": "llama3.2-vision:11b",
            "prompt": "Please look at this image and extract all the text content.",
            "stream": stream,
            "images": [ONE],
        }
        response = api.post("/api/generate", body)
        lines = lines_of(response) if stream else [answer_of(response)]
        assert "".join(line["response"] for line in lines) == "# Title"
        assert api.last.images == [b"one"]

    def test_a_page_that_cannot_be_read_has_an_error(self, api: Api) -> None:
        body = {"model": "llama3.2-vision:11b", "prompt": "Read.", "stream": False}
        response = api.post("/api/generate", {**body, "images": ["YnJva2Vu"]})
        assert response.json().get("error") == "image 1: the image is broken"
