"""Hostile requests get planned answers, and leave nothing behind."""

from __future__ import annotations

import collections
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .application import HOST, Application
from .batch_requests import batch_visits, uploads
from .exchange import Exchange
from .hostile_requests import GOOD, bulky_chats, chats, good_question, visits

Examine = Callable[[Exchange], int]

repeatable = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
HEADERS = (("host", HOST), ("content-type", "application/json"))


def test_hostile_chats_get_planned_answers(examine: Examine) -> None:
    statuses: collections.Counter[int] = collections.Counter()

    @settings(repeatable, max_examples=400)
    @given(chats(HOST))
    def check(exchange: Exchange) -> None:
        statuses[examine(exchange)] += 1

    check()
    # Requests that are all refused at once would show little.
    assert statuses[200] > 80
    assert statuses[400] > 80


def test_long_many_and_deep_values_get_planned_answers(examine: Examine) -> None:
    statuses: collections.Counter[int] = collections.Counter()

    @settings(repeatable, max_examples=150)
    @given(bulky_chats(HOST))
    def check(exchange: Exchange) -> None:
        statuses[examine(exchange)] += 1

    check()
    assert statuses[200] > 5
    assert statuses[400] > 50


def test_visits_to_any_place_get_planned_answers(examine: Examine) -> None:
    @settings(repeatable, max_examples=100)
    @given(visits(HOST))
    def check(exchange: Exchange) -> None:
        examine(exchange)

    check()


def test_requests_about_files_and_batches_get_planned_answers(examine: Examine) -> None:
    statuses: collections.Counter[int] = collections.Counter()

    @settings(repeatable, max_examples=150)
    @given(st.one_of(uploads(HOST), batch_visits(HOST)))
    def check(exchange: Exchange) -> None:
        statuses[examine(exchange)] += 1

    check()
    assert statuses[200] > 10
    assert statuses[400] > 20


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_requests_of_the_documents_schemas_get_documented_answers(
    application: Application, examine: Examine, mode: str
) -> None:
    pytest.importorskip("schemathesis")
    from .documented_requests import documented_requests

    request = Exchange("GET", "/openapi.json", HEADERS)
    document = application.send(request).json()
    operations = documented_requests(document, mode, HEADERS)
    assert len(operations) > (25 if mode == "positive" else 10)
    for requests in operations.values():

        @settings(repeatable, max_examples=6 if mode == "positive" else 4)
        @given(requests)
        def check(exchange: Exchange) -> None:
            examine(exchange)

        check()


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("leaves_after", [-1, 0, 1])
def test_a_client_that_leaves_is_no_error(
    examine: Examine, path: str, leaves_after: int
) -> None:
    import json

    body = json.dumps({**GOOD[path]}).encode()
    examine(Exchange("POST", path, HEADERS, body, leaves_after))


def test_a_request_is_made_again_from_its_reproducer() -> None:
    exchange = good_question(HOST)
    assert Exchange.parse(exchange.reproducer()) == exchange


@given(chats(HOST))
@settings(repeatable, max_examples=20)
def test_any_request_is_made_again_from_its_reproducer(exchange: Exchange) -> None:
    assert Exchange.parse(exchange.reproducer()) == exchange


@given(st.none())
@settings(repeatable, max_examples=1)
def test_a_wrong_answer_is_found(nothing: None) -> None:
    from mllama.server.routes import error_form

    from .checks import DocumentChecks
    from .exchange import Answer

    schema = {"type": "object", "required": ["a"]}
    responses = {"200": {"content": {"application/json": {"schema": schema}}}}
    operation = {"responses": responses}
    document = {"paths": {"/a": {"get": operation}}, "components": {}}
    checks = DocumentChecks(document, error_form)
    request = Exchange("GET", "/a")
    kind = {"content-type": "application/json"}
    assert not checks.problems(request, Answer(200, kind, b'{"a": 1}'))
    for answer in (
        Answer(200, kind, b'{"b": 1}'),
        Answer(200, kind, b"{"),
        Answer(200, {"content-type": "text/plain"}, b"a"),
        Answer(400, kind, b"{}"),
        Answer(500, kind, b"{}"),
        Answer(503, kind, b"{}"),
    ):
        assert checks.problems(request, answer), answer
    unknown = Exchange("GET", "/b")
    assert checks.problems(unknown, Answer(404, kind, b'{"error": "a text"}'))
