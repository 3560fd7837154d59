"""The application in this process, and what its answers are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mllama.server.routes import error_form

from .application import HOST, Application
from .checks import DocumentChecks
from .exchange import Exchange
from .hostile_requests import good_question


@pytest.fixture(scope="package")
def application() -> Iterator[Application]:
    application = Application()
    yield application
    application.close()


@pytest.fixture(scope="package")
def checks(application: Application) -> DocumentChecks:
    request = Exchange("GET", "/openapi.json", (("host", HOST),))
    return DocumentChecks(application.send(request).json(), error_form)


@pytest.fixture(scope="package")
def examine(
    application: Application, checks: DocumentChecks
) -> Callable[[Exchange], int]:
    """Returns a function that sends a request, checks all, and returns the status."""
    expected = application.send(good_question(HOST)).json()["choices"]
    count = 0

    def send(exchange: Exchange) -> int:
        nonlocal count
        with application.watched_log() as log:
            answer = application.send(exchange)
            problems = checks.problems(exchange, answer) + log
        left = application.leftovers()
        if left:
            problems.append(f"the worker still has {left}")
        count += 1
        if count % 25 == 0:
            right = application.send(good_question(HOST)).json()["choices"]
            if right != expected:
                problems.append(f"a good request is answered by {right}")
        assert not problems, "\n".join(
            (*problems, exchange.shown(), f"reproducer: {exchange.reproducer()}")
        )
        return answer.status

    return send
