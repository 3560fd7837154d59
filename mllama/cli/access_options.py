"""Options of ``mllama serve`` that say who may use the server."""

from __future__ import annotations

from typing import Final

from mllama.cli.option_sections import ACCESS
from mllama.launch.option import Option

ACCESS_OPTIONS: Final = (
    Option(
        name="api_key",
        section=ACCESS,
        takers=("serve", "cluster serve"),
        kind="text",
        metavar="KEY",
        repeatable=True,
        description="Key of which each request must send one, as `Authorization: "
        "Bearer KEY` or `x-api-key: KEY`. The variable MLLAMA_API_KEY may have keys "
        "too, with commas between them, and hides them from other users.",
        default_text="no key is needed",
    ),
    Option(
        name="api_key_file",
        section=ACCESS,
        takers=("serve", "cluster serve"),
        kind="path",
        metavar="FILE",
        description="File with such a key in each line.",
    ),
    Option(
        name="admin_key",
        section=ACCESS,
        takers=("serve", "cluster serve"),
        kind="text",
        metavar="KEY",
        repeatable=True,
        description="Key that opens POST /reset_prefix_cache, which doesn't exist "
        "without one; or the variable MLLAMA_ADMIN_KEY.",
    ),
    Option(
        name="cors_origin",
        section=ACCESS,
        takers=("serve", "cluster serve"),
        kind="text",
        metavar="ORIGIN",
        repeatable=True,
        description="Origin of web pages that may use the server, such as "
        "https://example.org; * is any.",
        default_text="only the server's own pages",
    ),
    Option(
        name="allowed_host",
        section=ACCESS,
        takers=("serve", "cluster serve"),
        kind="text",
        metavar="NAME",
        repeatable=True,
        description="Further name by which a server that listens on loopback may be "
        "called, beside loopback names, *.internal, *.local and this machine's name. "
        "A server elsewhere answers to every name.",
    ),
    Option(
        name="root_path",
        section=ACCESS,
        takers=("serve", "cluster serve"),
        kind="text",
        metavar="PATH",
        default="",
        description="Path under which a proxy has the server, such as /llama.",
    ),
    Option(
        name="ssl_certfile",
        section=ACCESS,
        takers=("serve", "cluster serve"),
        kind="path",
        metavar="FILE",
        description="Certificate with its chain, in PEM. The server then speaks HTTPS.",
    ),
    Option(
        name="ssl_keyfile",
        section=ACCESS,
        takers=("serve", "cluster serve"),
        kind="path",
        metavar="FILE",
        description="The certificate's private key, if it is not in the same file.",
    ),
    Option(
        name="ssl_keyfile_password",
        section=ACCESS,
        takers=("serve", "cluster serve"),
        kind="text",
        metavar="PASSWORD",
        description="The private key's password.",
    ),
)
