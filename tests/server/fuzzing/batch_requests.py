"""Hostile requests about files and batches."""

from __future__ import annotations

from urllib.parse import urlencode

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from .exchange import Exchange
from .grammar import maybe, rarely, some
from .hostile_values import texts, values

FILE_ID = "file-fuzzed"
BATCH_ID = "batch_fuzzed"
"""A file that the server has, and a batch that needs it."""

BATCH = some(
    {
        "input_file_id": st.sampled_from((FILE_ID, FILE_ID, "file-x", "../a", "")),
        "endpoint": st.sampled_from(
            ("/v1/chat/completions", "/v1/completions", "/v1/files", "")
        ),
        "completion_window": st.sampled_from(("24h", "24h", "24h", "1h", None)),
    },
    {
        "metadata": maybe(st.dictionaries(texts(), texts(), max_size=18)),
        "output_expires_after": maybe(
            some(
                {
                    "anchor": st.sampled_from(("created_at", "")),
                    "seconds": st.sampled_from((3600, 0, 10**12, "9", 1.5)),
                },
                {},
            )
        ),
        "model": values(),
    },
)

_PURPOSE = ('form-data; name="purpose"', b"batch")
_DISPOSITIONS = st.sampled_from(
    (
        *('form-data; name="file"; filename="a.jsonl"',) * 3,
        'form-data; name="file"; filename="../../etc/\u00e9\x00"',
        'form-data; name="file"; filename="' + "a" * 3000 + '"',
        "form-data; name=file",
        'form-data; name="purpose"',
        'form-data; name="expires_after[anchor]"',
        'form-data; name="expires_after[seconds]"',
        'form-data; name="\u2028"',
        "form-data",
        "",
        "a" * 5000,
        "form-data; " + "a=b; " * 500,
        'form-data; name="' + '\\"' * 1500 + '"',
    )
)
_CONTENTS = st.sampled_from(
    (
        *(b"-" * 60_000, b"\r" * 60_000, b"\r\n--" * 20_000, b"1" * 300_000),
        *(
            b"{}",
            b"",
            b"batch",
            b"created_at",
            b"3600",
            b"\xff\x00",
            b"--b",
            b"x" * 5000,
        ),
    )
)
_PATHS = st.sampled_from(
    (
        *("/v1/files", "/v1/batches"),
        *(f"/v1/files/{FILE_ID}", f"/v1/files/{FILE_ID}/content"),
        *("/v1/files/..", "/v1/files/file-x", "/v1/files/%2e%2e%2fa/content"),
        *(f"/v1/batches/{BATCH_ID}", f"/v1/batches/{BATCH_ID}/cancel"),
        *("/v1/batches/batch_x", "/v1/batches/batch_x/cancel", "/v1/batches/%00"),
    )
)
_QUERY = st.dictionaries(
    st.sampled_from(("limit", "after", "order", "purpose")),
    st.sampled_from(("1", "0", "-1", "9" * 30, "asc", "x", FILE_ID, "\u0661", "")),
    max_size=3,
)
_RANGES = ("bytes=0-1", "bytes=9-", "bytes=-1", "bytes=1-0,2-", "x=1", "bytes=", "\xff")


@st.composite
def uploads(draw: DrawFn, host: str) -> Exchange:
    """A form with a file, mostly with something wrong."""
    parts = draw(st.lists(st.tuples(_DISPOSITIONS, _CONTENTS), max_size=4))
    if not draw(rarely(4)):
        parts.append(_PURPOSE)
    if draw(rarely(20)):
        parts *= 30
    body = b"".join(
        f"--b\r\nContent-Disposition: {disposition}\r\n\r\n".encode("utf-8", "replace")
        + content
        + b"\r\n"
        for disposition, content in parts
    )
    body += b"--b--\r\n"
    if draw(rarely(5)):
        body = body[: draw(st.integers(0, len(body)))]
    kind = draw(
        st.sampled_from(
            (
                *("multipart/form-data; boundary=b",) * 8,
                *("multipart/form-data", "multipart/form-data; boundary=", "\xff"),
                *("application/json", "multipart/form-data; boundary=" + "b" * 300),
            )
        )
    )
    leaves = draw(st.sampled_from((-1, 0, 1))) if draw(rarely(10)) else None
    headers = (("host", host), ("content-type", kind))
    return Exchange("POST", "/v1/files", headers, body, leaves)


@st.composite
def batch_visits(draw: DrawFn, host: str) -> Exchange:
    """A request to a file, a batch, or a list of them."""
    method = draw(st.sampled_from(("GET", "GET", "GET", "POST", "HEAD", "DELETE")))
    path = draw(_PATHS)
    if draw(rarely(2)) and (query := draw(_QUERY)):
        path += f"?{urlencode(query)}"
    headers = [("host", host)]
    if draw(rarely(3)):
        headers.append(("range", draw(st.sampled_from(_RANGES))))
    return Exchange(method, path, tuple(headers))
