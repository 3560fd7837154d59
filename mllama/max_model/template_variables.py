"""The variables that a chat template reads without having set them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import jinja2
import jinja2.ext
from jinja2 import nodes

_LOOP: Final = {"loop"}
_MACRO: Final = {"caller", "varargs", "kwargs"}


class _GenerationTag(jinja2.ext.Extension):
    """Parses transformers' ``{% generation %}`` block, which marks answers."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def template_variables(source: str) -> set[str]:
    """Returns the names that a template may read before it sets them.

    Jinja's own list, ``find_undeclared_variables``, has variables too that each branch
    sets, whose values a request would give in vain.

    Raises:
        jinja2.TemplateError: If the source is not valid Jinja.
    """
    environment = jinja2.Environment(
        extensions=[jinja2.ext.loopcontrols, _GenerationTag]
    )
    found: set[str] = set()
    _read_statements(environment.parse(source).body, set(), found)
    return found


def _read_statements(
    statements: Iterable[nodes.Node], known: set[str], found: set[str]
) -> set[str]:
    """Adds the names that statements read and nothing has set.

    Args:
        statements: Statements of one scope, in order.
        known: Names that are set before.
        found: Names are added here.

    Returns:
        Names that are set after the statements, whichever way was taken.
    """
    known = set(known)
    for statement in statements:
        known |= _read_statement(statement, known, found)
    return known


def _read_statement(node: nodes.Node, known: set[str], found: set[str]) -> set[str]:
    match node:
        case nodes.If():
            _read_names([node.test], known, found)
            ways = [_read_statements(node.body, known, found)]
            for branch in node.elif_:
                _read_names([branch.test], known, found)
                ways.append(_read_statements(branch.body, known, found))
            ways.append(_read_statements(node.else_, known, found))
            return set.intersection(*ways)
        case nodes.For():
            _read_names([node.iter], known, found)
            inner = known | _set_names(node.target) | _LOOP
            _read_names([node.test] if node.test else [], inner, found)
            _read_statements(node.body, inner, found)
            _read_statements(node.else_, known, found)
            return set()
        case nodes.Macro() | nodes.CallBlock():
            _read_names(node.defaults, known, found)
            arguments = {argument.name for argument in node.args}
            name = {node.name} if isinstance(node, nodes.Macro) else set()
            if isinstance(node, nodes.CallBlock):
                _read_names([node.call], known, found)
            _read_statements(node.body, known | arguments | _MACRO | name, found)
            return name
        case nodes.Assign():
            _read_names([node.node, node.target], known, found)
            return _set_names(node.target)
        case nodes.AssignBlock():
            _read_names([node.filter] if node.filter else [], known, found)
            _read_statements(node.body, known, found)
            return _set_names(node.target)
        case nodes.With():
            _read_names(node.values, known, found)
            inner = known.union(*map(_set_names, node.targets))
            _read_statements(node.body, inner, found)
            return set()
        case nodes.Scope() | nodes.FilterBlock():
            if isinstance(node, nodes.FilterBlock):
                _read_names([node.filter], known, found)
            _read_statements(node.body, known, found)
            return set()
    _read_names([node], known, found)
    return set()


def _read_names(
    expressions: Iterable[nodes.Node], known: set[str], found: set[str]
) -> None:
    for expression in expressions:
        for name in (expression, *expression.find_all(nodes.Node)):
            if (isinstance(name, nodes.Name) and name.ctx == "load") or isinstance(
                name, nodes.NSRef
            ):
                found |= {name.name} - known


def _set_names(target: nodes.Node) -> set[str]:
    return {
        name.name
        for name in (target, *target.find_all(nodes.Name))
        if isinstance(name, nodes.Name)
    }
