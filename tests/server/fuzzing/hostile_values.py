"""Values that clients send by mistake or on purpose."""

from __future__ import annotations

import base64
import functools
import io
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image

from .bulky_values import bulky_schemas, runs

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 100, 256, 257, 768, 769, 770),
    *(2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63)),
    *(2**64 - 1, 2**64, 10**30, 10**400),
    *(0.5, -0.5, 1.0, -0.0, 1e-300, 5e-324, 1e300, float("nan"), float("inf")),
)

TEXTS = (
    *("", "a", " ", "Hi", "None", "true", "1", "-1", "1e5", "nan", "null", "[]", "{}"),
    *("\x00", "\x00a", "\x7f", "\ud800", "a\udfff", "\ud83e\udd99", "\ufeff", "\u202e"),
    *(
        "é" * 50,
        "🦙",
        "\u0301" * 20,
        "\n" * 30,
        "\t",
        "\r\n\r\n",
        " " * 3000,
        "a" * 3000,
    ),
    *("<|image|>", "<|eot_id|>", "<|begin_of_text|>", "<|python_tag|>", "</s>"),
    *("{{ 7 * 7 }}", "{% raw %}", "%s%n", "../../etc/passwd", "'; drop table", "$ref"),
    *(
        '{"name": "look", "parameters": {}}',
        "[look(at=1)]",
        "data: [DONE]\n\n",
        "(a+)+$",
    ),
)

URLS = (
    *("http://127.0.0.1/x", "http://[", "http://\ud800.example/", "file:///etc/passwd"),
    *("http://169.254.169.254/", "https://", "ftp://example.org/a", "//x", "http:///"),
    *(
        "data:,x",
        "data:image/png;base64,",
        "data:image/png;base64,AAAA",
        "data:;base64",
    ),
    *("data:image/png,%ff", "data:text/html;base64,PGE+", "javascript:1", "AAAA", "="),
)

KEYS = (
    *("type", "text", "url", "name", "role", "content", "image_url", "id", "function"),
    *(
        "parameters",
        "properties",
        "$ref",
        "$defs",
        "anyOf",
        "pattern",
        "enum",
        "schema",
    ),
    *("", "__class__", "__proto__", "\ud800", "a" * 300, "0", "[0]", "a.b", "\x00"),
)

SCHEMAS: tuple[Any, ...] = (
    *({"type": "object"}, {"$ref": "#"}, {"$ref": "#/$defs/a"}, True, False, {}, [], 1),
    {"type": "array", "items": {"$ref": "#"}},
    {"type": "string", "pattern": "(a+)+$"},
    {"type": "string", "pattern": "("},
    {"type": "string", "minLength": 10**9},
    {"type": "array", "minItems": 10**6, "items": {"type": "integer"}},
    {"type": "number", "multipleOf": 0},
    {"type": "integer", "minimum": 10**40, "maximum": -1},
    *({"anyOf": []}, {"enum": []}, {"type": "bogus"}, {"type": ["string", "null"]}),
    {"enum": ["\ud800"]},
    {"const": {"a": [1, None, 1e300]}},
    {"properties": {"\ud800": {"type": "string"}, "a" * 3000: {}}},
    {"type": "object", "additionalProperties": {"$ref": "#"}},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"not": {}},
    {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
)


@functools.cache
def pictures() -> tuple[bytes, ...]:
    """Returns small pictures in several formats, good ones and bad ones."""
    kinds = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "TGA")
    files = []
    for kind in kinds:
        file = io.BytesIO()
        Image.new("RGB", (40, 30), "red").save(file, kind)
        files.append(file.getvalue())
    png = files[0]
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    huge = header + (2**31 - 1).to_bytes(4, "big") * 2 + png[24:]
    return (*files, png[:60], png[:20] + b"\xff" + png[21:], huge, b"", b"GIF89a")


def texts() -> SearchStrategy[str]:
    short = st.sampled_from(TEXTS)
    # Hypothesis's text has no surrogates by itself.
    any_text = st.text(st.characters(exclude_categories=()), max_size=8)
    return st.one_of(*(short, any_text) * 4, runs())


def schemas() -> SearchStrategy[Any]:
    known = st.sampled_from(SCHEMAS)
    return st.one_of(known, values(), known, values(), bulky_schemas())


def numbers() -> SearchStrategy[Any]:
    return st.one_of(
        st.integers(0, 3),
        st.sampled_from(NUMBERS),
        st.integers(-3, 300),
        st.floats(width=32),
    )


def image_sources() -> SearchStrategy[str]:
    """URLs of pictures, and what isn't one."""
    return st.one_of(
        st.sampled_from(pictures()).map(
            lambda data: "data:image/png;base64," + base64.b64encode(data).decode()
        ),
        st.sampled_from(pictures()).map(lambda data: base64.b64encode(data).decode()),
        st.sampled_from(URLS),
        texts(),
    )


def values() -> SearchStrategy[Any]:
    """Any JSON, NaN included."""
    scalars = st.one_of(texts(), numbers(), st.none(), st.booleans())
    return st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
        ),
        max_leaves=6,
    )
