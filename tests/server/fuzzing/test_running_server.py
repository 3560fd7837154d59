"""Hostile requests to a running server leave it as it was."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.conftest import Server

from .batch_requests import batch_visits, uploads
from .damaged_images import damaged
from .exchange import Exchange
from .hostile_requests import bulky_chats, chats, picture_chats, visits
from .running_server import RunningServer, reproducer_line
from .test_in_process import repeatable

pytestmark = pytest.mark.compiles


def test_hostile_requests_leave_a_server_as_it_was(server: Server) -> None:
    running = RunningServer(server.port, server.process.pid, server.log)
    host = running.host

    @settings(repeatable, max_examples=100)
    @given(
        st.one_of(
            *(chats(host), picture_chats(host, damaged()), visits(host)) * 3,
            *(bulky_chats(host), uploads(host), batch_visits(host)),
        ),
    )
    def check(exchange: Exchange) -> None:
        problems = running.problems_with(exchange)
        assert not problems, "\n".join(
            (*problems, exchange.shown(), reproducer_line(exchange))
        )

    check()
    assert running.lasting_problems() == []
