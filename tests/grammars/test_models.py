"""The schemas of twenty ordinary Pydantic models."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.grammars.walking import Format

WALKS = 8


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: float
    y: float


class Flat(BaseModel):
    name: str
    age: int
    is_adult: bool
    height: float


class Optionals(BaseModel):
    name: str | None = None
    age: int | None = Field(None, ge=0, le=150)


class Bounded(BaseModel):
    name: str = Field(min_length=1, max_length=30)
    share: float = Field(gt=0, lt=1)
    stars: int = Field(ge=1, le=5)
    scores: list[int] = Field(min_length=1, max_length=4)


class Enums(BaseModel):
    color: Color
    size: Literal["S", "M", "L"]
    wheels: Literal[2, 4]


class Nested(BaseModel):
    center: Point
    corners: list[Point]
    color: Color = Color.RED


class Dates(BaseModel):
    day: date
    moment: datetime
    clock: time
    length: timedelta


class Ids(BaseModel):
    id: UUID
    code: Annotated[str, Field(pattern=r"^[A-Z]{3}-\d{4}$")]


class Union(BaseModel):
    value: int | str | bool | None
    values: list[int | str]


class Tuples(BaseModel):
    pair: tuple[int, str]
    point: tuple[float, float, float]


class Mappings(BaseModel):
    counts: dict[str, int]
    colors: dict[Color, float]
    anything: dict[str, Any]


class Tree(BaseModel):
    value: int
    children: list[Tree] = Field(default=[], max_length=2)


class Chain(BaseModel):
    value: str = Field(max_length=5)
    next: Chain | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


class Pet(BaseModel):
    animal: Annotated[Cat | Dog, Field(discriminator="kind")]


class Pets(BaseModel):
    pets: list[Cat | Dog]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int
    b: str = "b"


class Item(BaseModel):
    description: str
    quantity: int = Field(1, ge=1)
    price: Decimal


class Receipt(BaseModel):
    """A receipt, as people read them."""

    shop: str = Field(description="The name of the shop")
    bought_on: date | None = None
    items: list[Item]
    total: Decimal
    currency: Literal["EUR", "USD", "CHF"] = "EUR"


class Aliased(BaseModel):
    first: str = Field(alias="first name")
    quote: str = Field(alias='"')


class Defaults(BaseModel):
    a: list[str] = []
    b: dict[str, bool] = {}
    c: Point = Point(x=0, y=0)


MODELS: list[type[BaseModel]] = [
    Flat,
    Optionals,
    Bounded,
    Enums,
    Nested,
    Dates,
    Ids,
    Union,
    Tuples,
    Mappings,
    Tree,
    Chain,
    Pet,
    Pets,
    Closed,
    Item,
    Receipt,
    Aliased,
    Defaults,
    Point,
]


LOOSE = [Item, Receipt]
"""Models whose schemas allow any text for a decimal."""


def test_there_are_twenty_models() -> None:
    assert len(set(MODELS)) == 20


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_answers_are_instances(model: type[BaseModel], strict: bool) -> None:
    made = Format("json_schema", model.model_json_schema(), strict=strict)
    finished = 0
    for seed in range(WALKS):
        text = made.walk(seed)
        if text is not None:
            jsonschema.validate(json.loads(text), model.model_json_schema())
            if model not in LOOSE:
                model.model_validate_json(text)
            finished += 1
    assert finished > 0


INSTANCES: list[BaseModel] = [
    Flat(name='A "B"\n\u00e9\U0001f600', age=-3, is_adult=True, height=1.75),
    Optionals(name=None, age=150),
    Bounded(name="x" * 30, share=0.5, stars=5, scores=[1]),
    Enums(color=Color.BLUE, size="M", wheels=4),
    Nested(center=Point(x=0, y=-1.5), corners=[Point(x=1e-7, y=1e20)]),
    Dates(
        day=date(2024, 2, 29),
        moment=datetime.fromisoformat("1999-12-31T23:59:59+01:00"),
        clock=time.fromisoformat("10:20:30.500000+00:00"),
        length=timedelta(days=3, hours=4),
    ),
    Ids(id=UUID(int=7), code="ABC-1234"),
    Union(value=None, values=[1, "a"]),
    Tuples(pair=(1, "a"), point=(1.5, 2.5, -0.5)),
    Mappings(counts={"a b": 1}, colors={Color.RED: 0.5}, anything={"x": [{}, None]}),
    Tree(value=1, children=[Tree(value=2), Tree(value=3, children=[Tree(value=4)])]),
    Chain(value="a", next=Chain(value="b")),
    Pet(animal=Cat(kind="cat", lives=9)),
    Pets(pets=[Dog(kind="dog", tricks=["sit"]), Cat(kind="cat", lives=1)]),
    Closed(a=1),
    Receipt(
        shop="Caf\u00e9",
        items=[Item(description="tea", price=Decimal("2.50"))],
        total=Decimal("2.50"),
    ),
    Aliased.model_validate({"first name": "a", '"': "b"}),
    Defaults(),
]


@pytest.mark.parametrize("instance", INSTANCES)
def test_an_instance_is_an_answer(instance: BaseModel) -> None:
    schema = type(instance).model_json_schema()
    data = instance.model_dump(mode="json", by_alias=True)
    text = json.dumps(data, ensure_ascii=False)
    assert Format("json_schema", schema, strict=True).accepts(text), text
