"""Sockets are bound before anything else, or one line says why not."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from mllama.errors import MllamaError
from mllama.server.listening import address_text, bind, bind_unix, close


def test_port_0_is_any_that_is_free() -> None:
    (bound,) = bind("127.0.0.1", 0)
    port = bound.getsockname()[1]
    assert port > 0
    assert address_text(bound, "http") == f"http://127.0.0.1:{port}"
    # Nobody is kept waiting while the model is loaded.
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0
    close([bound])


def test_a_port_in_use_is_named() -> None:
    (bound,) = bind("127.0.0.1", 0)
    bound.listen()
    port = bound.getsockname()[1]
    with pytest.raises(MllamaError, match=f"port {port}, is already in use"):
        bind("127.0.0.1", port)
    close([bound])


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("127.0.0.1", 70000, "from 0 to 65535"),
        ("127.0.0.1", -1, "from 0 to 65535"),
        ("192.0.2.1", 0, "is no address of this machine"),
        ("no host", 0, "can't be resolved"),
        ("a" * 70 + ".example", 0, "can't be resolved"),
    ],
)
def test_what_can_not_be_bound_is_one_line(host: str, port: int, says: str) -> None:
    with pytest.raises(MllamaError, match=says) as caught:
        bind(host, port)
    assert "\n" not in str(caught.value)


def test_a_unix_socket_replaces_one_that_was_left(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (left,) = bind_unix(str(path))
    left.close()
    (bound,) = bind_unix(str(path))
    bound.listen()
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert address_text(bound, "http") == f"unix:{path}"
    with pytest.raises(MllamaError, match="a server listens on"):
        bind_unix(str(path))
    close([bound], str(path))
    assert not path.exists()


def test_a_file_is_never_replaced_by_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("kept")
    with pytest.raises(MllamaError, match="can't be used"):
        bind_unix(str(path))
    assert path.read_text() == "kept"
