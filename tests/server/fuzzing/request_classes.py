"""Classes of requests that cost a server memory, each as a burst."""

from __future__ import annotations

import base64
import functools
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from PIL import Image

from tests.images.picture_kinds import KINDS, png

from .exchange import Exchange
from .grammar import MODEL

CHAT: Final = "/v1/chat/completions"

_SIDE: Final = 1500
"""Pixels of the sides of pictures, which make the tiles of a photo."""

_KEYS: Final = 20_000
_WORDS: Final = ("red", "circle", "left", "of", "a", "blue", "square", "above")


class Requests:
    """Makes requests to one server.

    Args:
        host: The server's address.
        site: The URL of a site with pictures, which the server may fetch from.
    """

    def __init__(self, host: str, site: str = "") -> None:
        self._host = host
        self._site = site

    def post(self, path: str, body: Any, leaves_after: int | None = None) -> Exchange:
        """Returns a request with a JSON body, or with bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = (("host", self._host), ("content-type", "application/json"))
        return Exchange("POST", path, headers, content, leaves_after)

    def chat(
        self, content: Any = "Hi", leaves_after: int | None = None, **fields: Any
    ) -> Exchange:
        """Returns a chat of a few tokens, unless fields say otherwise."""
        messages = [{"role": "user", "content": content}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 4, **fields}
        return self.post(CHAT, body, leaves_after)

    def about(
        self, *contents: bytes, leaves_after: int | None = None, **fields: Any
    ) -> Exchange:
        """Returns a chat about pictures."""
        urls = [data_url(content) for content in contents]
        return self.chat(parts(*urls), leaves_after, **fields)

    def fetched(self, path: str) -> Exchange:
        """Returns a chat about a picture that the server has to fetch."""
        return self.chat(parts(f"{self._site}/{path}"))

    def upload(self, lines: Sequence[Any]) -> Exchange:
        """Returns the upload of a batch's file."""
        content = "\n".join(map(json.dumps, lines)).encode()
        body = (
            b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"'
            b"\r\n\r\n" + content + b"\r\n--b--\r\n"
        )
        kind = ("content-type", "multipart/form-data; boundary=b")
        return Exchange("POST", "/v1/files", (("host", self._host), kind), body)


def data_url(content: bytes) -> str:
    """Returns a picture's file as a URL."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def parts(*urls: str) -> list[Any]:
    """Returns the parts of a message with pictures and a question."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [*images, {"type": "text", "text": "What is it?"}]


def different_picture(number: int, side: int = 300) -> bytes:
    """Returns a picture that no other number has."""
    file = io.BytesIO()
    color = (number % 256, number // 256 % 256, 90)
    picture = Image.new("RGB", (side, side), color)
    picture.paste("white", (number % 200, 20, number % 200 + 60, 90))
    picture.save(file, "PNG")
    return file.getvalue()


def long_text(number: int, words: int) -> str:
    """Returns a text that begins as no other number's does."""
    chosen = random.Random(number).choices(_WORDS, k=words)
    return f"{number}: {' '.join(chosen)}"


@functools.cache
def _file(kind: str, side: int = _SIDE) -> bytes:
    return KINDS[kind](side)


def _schema(depth: int, choices: int) -> Any:
    schema: Any = {"type": "string", "pattern": "(a|b)*c{1,30}"}
    for number in range(depth):
        others = {f"k{number}-{each}": {"enum": [each]} for each in range(choices)}
        schema = {"type": "object", "properties": {f"k{number}": schema, **others}}
    return schema


def _answer_format(depth: int, choices: int) -> Any:
    schema = {"name": "a", "schema": _schema(depth, choices)}
    return {"type": "json_schema", "json_schema": schema}


def _plain_chats(requests: Requests) -> Iterator[Exchange]:
    for number in range(40):
        yield requests.chat(f"Number {number}")
    for number in range(8):
        yield requests.chat(long_text(number, 1500))


def _streams(requests: Requests) -> Iterator[Exchange]:
    for number in range(12):
        yield requests.chat(
            f"Go on {number}", stream=True, max_tokens=300, ignore_eos=True
        )


def _many_images(requests: Requests) -> Iterator[Exchange]:
    for number in range(6):
        yield requests.about(
            *(different_picture(1000 + 16 * number + each) for each in range(16))
        )
    for number in range(2):
        yield requests.about(*[different_picture(number)] * 32)


def _refused_bodies(requests: Requests) -> Iterator[Exchange]:
    for _ in range(4):
        yield requests.post(CHAT, b'{"a": "' + b"x" * (60 << 20) + b'"}')
        yield requests.post(CHAT, b'{"a": [' + b"[]," * 24_000 + b"0]}")
        yield requests.post(CHAT, b"[" * 1_000_000)


def _long_prompts(requests: Requests) -> Iterator[Exchange]:
    for text in ("shape " * 2_600_000, " " * 15_700_000, "a" * 15_700_000):
        yield requests.chat(text)
        yield requests.post("/v1/completions", {"model": MODEL, "prompt": text})
        yield requests.post("/tokenize", {"prompt": text})


def _many_keys(requests: Requests) -> Iterator[Exchange]:
    for _ in range(4):
        keys = b",".join(b'"%d": 1' % number for number in range(7 * _KEYS))
        yield requests.post(CHAT, b'{"a": {' + keys + b"}}")
        yield requests.chat(**{f"k{number}": number for number in range(_KEYS)})
        yield requests.post(CHAT, b'{"a": "' + b"\\u00e9" * 990_000 + b'"}')
        numbers = b"1.2345678901234567e-103," * 490_000
        yield requests.post(CHAT, b'{"a": [' + numbers + b"0]}")


def _formats(requests: Requests) -> Iterator[Exchange]:
    for number in range(6):
        yield requests.chat(response_format=_answer_format(10 + number, 30))
        yield requests.chat(response_format=_answer_format(3, 150 + number))
        expression = f"([a-z]{{1,{50 + number}}} ?){{1,100}}"
        yield requests.chat(structured_outputs={"regex": expression})
        rules = " ".join(f'"{number}-{each}" |' for each in range(2000)) + ' "a"'
        yield requests.chat(structured_outputs={"grammar": f"root ::= {rules}"})


def _log_probabilities(requests: Requests) -> Iterator[Exchange]:
    for number in range(3):
        yield requests.chat(
            f"Go on {number}",
            logprobs=True,
            top_logprobs=20,
            max_tokens=2000,
            ignore_eos=True,
        )
        yield requests.post(
            "/v1/completions",
            {
                "model": MODEL,
                "prompt": long_text(100 + number, 1000),
                "max_tokens": 2,
                "prompt_logprobs": 20,
            },
        )


def _several_answers(requests: Requests) -> Iterator[Exchange]:
    for number in range(6):
        yield requests.chat(
            f"Go on {number}", n=8, max_tokens=60, ignore_eos=True, temperature=1
        )
    for number in range(2):
        prompts = [f"{number} {each}" for each in range(60)]
        yield requests.post(
            "/v1/completions", {"model": MODEL, "prompt": prompts, "max_tokens": 3}
        )


def _texts(requests: Requests) -> Iterator[Exchange]:
    for number in range(10):
        text = long_text(number, 7000)
        yield requests.post("/tokenize", {"prompt": text, "return_token_strs": True})
        yield requests.post("/detokenize", {"tokens": [5] * 200_000})
        yield requests.post("/v1/embeddings", {"model": MODEL, "input": text})
        yield requests.post("/v1/moderations", {"input": text[:2000]})


def _formats_of_pictures(
    *kinds: str, damage: Callable[[bytes], bytes] = bytes
) -> Callable[[Requests], Iterator[Exchange]]:
    def make(requests: Requests) -> Iterator[Exchange]:
        for kind in kinds:
            for _ in range(3):
                yield requests.about(damage(_file(kind)))

    return make


def _cut(content: bytes) -> bytes:
    return content[: -max(2, len(content) // 50)]


def _changed(content: bytes) -> bytes:
    changed = bytearray(content)
    for place in range(len(changed) // 2, len(changed), max(1, len(changed) // 40)):
        changed[place] ^= 0x55
    return bytes(changed)


def _large_pictures(requests: Requests) -> Iterator[Exchange]:
    for _ in range(2):
        yield requests.about(png(8000, 1, 0))
        yield requests.about(png(4000, 8, 6))
        yield requests.about(png(20_000, 1, 0))


def _fetched(requests: Requests) -> Iterator[Exchange]:
    for number in range(12):
        yield requests.fetched(f"picture?{number}")
        yield requests.fetched("large")
        yield requests.fetched("missing")


def _leaving(requests: Requests) -> Iterator[Exchange]:
    for number in range(12):
        yield requests.chat(
            f"Go on {number}",
            leaves_after=number % 4,
            stream=True,
            max_tokens=2000,
            ignore_eos=True,
        )
        yield requests.about(_file("PNG type 2 8 bit", 3000), leaves_after=0)
        yield requests.chat("shape " * 1_000_000, leaves_after=-1)


def _dialects(requests: Requests) -> Iterator[Exchange]:
    image = base64.b64encode(different_picture(7)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": image}
    for number in range(8):
        text = long_text(200 + number, 1000)
        user = {"role": "user", "content": text}
        yield requests.post(
            "/v1/messages",
            {
                "model": MODEL,
                "max_tokens": 8,
                "stream": number % 2 == 0,
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image", "source": source},
                            {"type": "text", "text": text},
                        ],
                    }
                ],
            },
        )
        yield requests.post(
            "/v1/messages/count_tokens", {"model": MODEL, "messages": [user]}
        )
        options = {"num_predict": 8}
        yield requests.post(
            "/api/chat",
            {
                "model": MODEL,
                "messages": [{**user, "images": [image]}],
                "options": options,
            },
        )
        yield requests.post(
            "/api/generate", {"model": MODEL, "prompt": text, "options": options}
        )
        yield requests.post(
            "/v1/responses",
            {"input": text, "max_output_tokens": 16, "stream": number % 2 == 0},
        )


def _files(requests: Requests) -> Iterator[Exchange]:
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": CHAT,
        "body": {"messages": [{"role": "user", "content": "a" * 500}]},
    }
    for _ in range(3):
        yield requests.upload([{**line, "custom_id": str(n)} for n in range(10_000)])


def _attention(requests: Requests) -> Iterator[Exchange]:
    for number in range(8):
        yield requests.about(
            different_picture(2000 + number),
            attention={"prompt": True},
            max_tokens=40,
            ignore_eos=True,
        )


CLASSES: Final[Mapping[str, Callable[[Requests], Iterator[Exchange]]]] = {
    "chats, short and long": _plain_chats,
    "streams": _streams,
    "many images": _many_images,
    "huge bodies": _refused_bodies,
    "prompts of 16 MB": _long_prompts,
    "JSON with many values": _many_keys,
    "schemas and grammars": _formats,
    "log probabilities": _log_probabilities,
    "several answers and prompts": _several_answers,
    "texts to tokenize": _texts,
    "JPEG": _formats_of_pictures(
        "JPEG RGB 4:2:0", "JPEG RGB 4:4:4 progressive", "JPEG CMYK  progressive"
    ),
    "PNG": _formats_of_pictures(
        "PNG type 6 8 bit interlaced", "PNG type 0 16 bit keyed", "APNG"
    ),
    "WebP": _formats_of_pictures("WEBP RGB", "WEBP RGBA lossless", "WEBP animated"),
    "AVIF and HEIF": _formats_of_pictures("AVIF RGBA 4:4:4", "HEIF RGBA"),
    "JPEG 2000": _formats_of_pictures("JPEG2000 RGB lossy", "JPEG2000 LA lossy"),
    "TIFF, GIF, BMP, TGA, PPM": _formats_of_pictures(
        "TIFF F raw", "TIFF CMYK tiff_lzw", "GIF animated", "BMP P", "TGA RGBA", "PFM"
    ),
    "cut pictures": _formats_of_pictures(
        "JPEG RGB 4:4:4", "PNG type 6 8 bit interlaced", "WEBP RGB", damage=_cut
    ),
    "damaged pictures": _formats_of_pictures(
        *("JPEG CMYK  progressive", "PNG type 2 8 bit", "WEBP RGBA", "TIFF RGB raw"),
        *("AVIF RGB 4:4:4", "HEIF RGB", "JPEG2000 RGB lossy", "GIF animated"),
        damage=_changed,
    ),
    "large pictures": _large_pictures,
    "fetched pictures": _fetched,
    "clients that leave": _leaving,
    "other dialects": _dialects,
    "files": _files,
    "attention maps": _attention,
}
"""Functions that make a burst of requests, by the name of their class."""


def cache_filling(requests: Requests) -> Iterator[Exchange]:
    """Yields requests that fill the image cache and the prefix cache."""
    for number in range(0, 128, 8):
        yield requests.about(
            *(different_picture(5000 + number + each) for each in range(8))
        )
    for number in range(24):
        yield requests.chat(long_text(9000 + number, 3000))
