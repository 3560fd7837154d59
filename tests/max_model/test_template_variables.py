"""A request may give the variables that a template reads, and no others."""

from __future__ import annotations

import pytest

from mllama.max_model.template_variables import template_variables


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("{{ a }}{% set b = a %}{{ b | trim }}", {"a"}),
        ("{% if a is not defined %}{% set a = 1 %}{% endif %}{{ a }}", {"a"}),
        ("{% set a = a or b %}{{ a }}", {"a", "b"}),
        ("{% if x %}{% set a = 1 %}{% else %}{% set a = 2 %}{% endif %}{{ a }}", {"x"}),
        ("{% if x %}{% set a = 1 %}{% endif %}{{ a }}", {"x", "a"}),
        (
            "{% if x %}{% set a = 1 %}{% elif y %}{% set a = 2 %}{% else %}"
            "{% set a = 3 %}{% endif %}{{ a }}",
            {"x", "y"},
        ),
        (
            "{% if x %}{% set a = 1 %}{% elif y %}{{ a }}{% endif %}{{ a }}",
            {"x", "y", "a"},
        ),
        ("{% for m in ms if m.x %}{{ m ~ loop.index }}{% endfor %}", {"ms"}),
        ("{% for m in ms %}{% set a = m %}{{ a }}{% endfor %}", {"ms"}),
        ("{% for m in ms %}{% set a = m %}{% endfor %}{{ a }}", {"ms", "a"}),
        (
            "{% for m in ms %}{{ a }}{% else %}{{ b }}{{ m }}{% endfor %}",
            {"a", "b", "m", "ms"},
        ),
        ("{% macro f(x, y=d) %}{{ x ~ y ~ z }}{% endmacro %}{{ f(1) }}", {"d", "z"}),
        ("{% call(u) f(1) %}{{ u ~ v }}{% endcall %}", {"f", "v"}),
        (
            "{% set n = namespace(a=x) %}{% set n.a = y %}{{ n.a }}",
            {"namespace", "x", "y"},
        ),
        ("{% set n.a = 1 %}", {"n"}),
        ("{% set a %}{{ b }}{% endset %}{{ a }}", {"b"}),
        ("{% set a, b = c %}{{ a ~ b }}", {"c"}),
        ("{% with a = b %}{{ a }}{% endwith %}{{ a }}", {"a", "b"}),
        ("{% filter indent(n) %}{{ a }}{% endfilter %}", {"n", "a"}),
        ("{% generation %}{{ a }}{% endgeneration %}", {"a"}),
        ("{% for m in ms %}{% if m %}{% continue %}{% endif %}{% endfor %}", {"ms"}),
        ("{{ a.b[c](d, e=f) if g in h else [i, {'j': k}] }}", set("acdfghik")),
    ],
)
def test_names_that_are_read_before_they_are_set(source: str, names: set[str]) -> None:
    assert template_variables(source) == names
