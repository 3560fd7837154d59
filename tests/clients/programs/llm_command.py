"""The command ``llm``: prompts with attachments, conversations, options and errors."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from picture import (
    ANSWER,
    GREETING,
    HELLO,
    QUESTION,
    SECOND_ANSWER,
    SECOND_QUESTION,
    png,
)

MODEL = "meta-llama/Llama-3.2-11B-Vision-Instruct"
COMMAND = Path(sys.executable).with_name("llm")


class User:
    """A user of the command, who has the server's models and a picture."""

    def __init__(self, url: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.directory = Path(self._folder.name)
        self.picture = self.directory / "picture.png"
        self.picture.write_bytes(png())
        shared = {"api_base": f"{url}/v1", "vision": True, "supports_tools": True}
        models = [
            {"model_id": "local", "model_name": MODEL, **shared},
            {"model_id": "other", "model_name": "gpt-4o", **shared},
            {
                "model_id": "text",
                "model_name": MODEL,
                "api_base": f"{url}/v1",
                "completion": True,
            },
        ]
        # JSON is YAML.
        configuration = self.directory / "extra-openai-models.yaml"
        configuration.write_text(json.dumps(models))

    def run(self, *arguments: Any, given: bytes = b"") -> Any:
        """Runs the command."""
        return subprocess.run(
            [COMMAND, *map(str, arguments)],
            input=given,
            capture_output=True,
            env={**os.environ, "LLM_USER_PATH": str(self.directory)},
        )

    def ask(self, *arguments: Any, given: bytes = b"") -> str:
        """Runs the command and returns its output."""
        done = self.run("-m", "local", *arguments, given=given)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().removesuffix("\n")


@cache
def user_of(url: str) -> User:
    """The user of a server, whose log has all checks' conversations."""
    return User(url)


def check_a_text(url: str) -> None:
    user = user_of(url)
    assert user.ask(HELLO) == GREETING
    assert user.ask(HELLO, "--no-stream", "-s", "Be brief.") == GREETING


def check_attachments(url: str) -> None:
    user = user_of(url)
    assert user.ask(QUESTION, "-a", user.picture) == ANSWER
    assert user.ask(QUESTION, "-a", "-", given=png()) == ANSWER
    typed = ("--at", user.picture, "image/png")
    assert user.ask(QUESTION, *typed, "--no-stream") == ANSWER


def check_a_conversation_and_its_usage(url: str) -> None:
    user = user_of(url)
    assert user.ask(QUESTION, "-a", user.picture) == ANSWER
    assert user.ask(SECOND_QUESTION, "-c") == SECOND_ANSWER
    logged = json.loads(user.run("logs", "--json", "-c").stdout)
    assert [each["response"] for each in logged] == [ANSWER, SECOND_ANSWER]
    for each in logged:
        assert each["input_tokens"] > each["output_tokens"] > 1


def check_options(url: str) -> None:
    user = user_of(url)
    asked = (QUESTION, "-a", user.picture, "-o", "temperature", "0")
    stopped = user.ask(*asked, "-o", "stop", " left", "-o", "seed", "3")
    assert stopped == ANSWER.partition(" left")[0]
    short = user.ask(*asked, "-o", "max_tokens", "2")
    assert short
    assert ANSWER.startswith(short)
    assert len(short) < len(ANSWER)
    assert user.ask(*asked, "-o", "image_detail", "low") == ANSWER


def check_the_python_api(url: str) -> None:
    user = user_of(url)
    os.environ["LLM_USER_PATH"] = str(user.directory)
    import llm

    model = llm.get_model("local")
    conversation = model.conversation()
    shown = llm.Attachment(path=str(user.picture))
    pieces = list(conversation.prompt(QUESTION, attachments=[shown]))
    assert len(pieces) > 1
    assert "".join(pieces) == ANSWER
    assert conversation.prompt(SECOND_QUESTION).text() == SECOND_ANSWER
    usage = model.prompt(HELLO, stream=False).usage()
    assert usage.input > 1
    assert usage.output > 1


def check_an_endpoint_without_configuration(url: str) -> None:
    user = user_of(url)
    endpoint = ("openai", "endpoint", f"{url}/v1")
    models = user.run(*endpoint, "--models")
    assert models.returncode == 0, models.stderr
    asked = (*endpoint, "-m", MODEL, "-a", user.picture, QUESTION)
    assert user.run(*asked).stdout.decode().strip() == ANSWER


def check_a_text_completion(url: str) -> None:
    user = user_of(url)
    done = user.run("-m", "text", "A red", "-o", "max_tokens", "8")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.strip()


def check_tools(url: str) -> None:
    user = user_of(url)
    assert user.ask(HELLO, "-T", "llm_version", "-o", "max_tokens", "8")


def check_errors(url: str) -> None:
    user = user_of(url)
    done = user.run("-m", "other", HELLO)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: ")
    assert b"gpt-4o" in done.stderr
    broken = user.directory / "broken.png"
    broken.write_bytes(png()[:60])
    done = user.run("-m", "local", QUESTION, "-a", broken)
    assert done.returncode == 1
    assert b"image 1" in done.stderr
