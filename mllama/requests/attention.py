"""Attention maps: what is asked for, and what comes back.

A map says where in an image a token looked: how the cross-attention that predicted the
token was distributed over the image's patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mllama.errors import RequestError, quoted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mllama.images.patch_grid import PatchGrid

LAST_LAYER: Final = "last"
ALL: Final = "all"
LOCALIZING: Final = "localizing"

MAX_MAP_VALUES: Final = 32 << 20
"""Values of all maps of an answer, tokens times patches: 128 MiB."""

Head = tuple[int, int]
"""A head: its layer among all of the text decoder's, and its number there."""


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """The layers and heads that maps are the mean of, and the tokens that have maps.

    Attributes:
        layers: "all" or "last" of the cross-attention layers, or the numbers of some,
            which are those of the checkpoint's ``cross_attention_layers``.
        heads: "localizing", the one of these layers whose maps are the clearest; or
            "all" of them; or numbers of heads, the same in each layer; or pairs of a
            layer and a head, without ``layers``.
        prompt: Whether tokens of the prompt have maps too, not only the answer's.

    Raises:
        RequestError: If a value is of another kind.
    """

    layers: str | Sequence[int] = ALL
    heads: str | Sequence[int] | Sequence[Head] = LOCALIZING
    prompt: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, bool):
            raise RequestError(
                f"attention.prompt must be true or false, not {quoted(self.prompt)}",
                "attention",
            )
        if self.layers not in (LAST_LAYER, ALL) and not _are_numbers(self.layers):
            raise RequestError(
                f"attention.layers must be {ALL!r}, {LAST_LAYER!r} or a list of "
                f"layers, not {quoted(self.layers)}",
                "attention",
            )
        if (
            self.heads not in (ALL, LOCALIZING)
            and not _are_numbers(self.heads)
            and not _are_pairs(self.heads)
        ):
            raise RequestError(
                f"attention.heads must be {LOCALIZING!r}, {ALL!r}, a list of heads or "
                f"a list of pairs of a layer and a head, not {quoted(self.heads)}",
                "attention",
            )
        if _are_pairs(self.heads) and self.layers != ALL:
            raise RequestError(
                "attention.layers can't be combined with heads that name their layers: "
                "leave it out",
                "attention",
            )

    @classmethod
    def of(cls, value: Any) -> AttentionOptions | None:
        """Returns the options that a caller gives.

        Args:
            value: True for the default; a mapping of the attributes; the options
                themselves; False or None for no maps.

        Raises:
            RequestError: If it is none of these, or a value is of another kind.
        """
        if value is None or value is False:
            return None
        if value is True:
            return cls()
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise RequestError(
                "attention must be true, false or an object with layers and heads, "
                f"not {quoted(value)}",
                "attention",
            )
        names = list(cls.__dataclass_fields__)
        if unknown := [str(name) for name in value if name not in names]:
            raise RequestError(
                f"attention has no {', '.join(unknown)}; it has {', '.join(names)}",
                "attention",
            )
        return cls(**value)

    def chosen(self, cross_layers: Sequence[int], num_heads: int) -> list[Head]:
        """Returns the heads to take the mean of, or to choose from if they are to be
        localizing.

        Args:
            cross_layers: The numbers of the model's cross-attention layers.
            num_heads: The heads of each.

        Raises:
            RequestError: If the model has no such layer or head.
        """
        if _are_pairs(self.heads):
            given: Any = self.heads
            pairs = [(int(layer), int(head)) for layer, head in given]
        else:
            if self.layers == LAST_LAYER:
                layers: Sequence[int] = cross_layers[-1:]
            elif self.layers == ALL:
                layers = cross_layers
            else:
                layers = [int(layer) for layer in self.layers]
            heads = (
                range(num_heads)
                if isinstance(self.heads, str)
                else [int(head) for head in self.heads]  # type: ignore[arg-type]
            )
            pairs = [(layer, head) for layer in layers for head in heads]
        for layer, head in pairs:
            if layer not in cross_layers:
                raise RequestError(
                    f"layer {layer} has no cross-attention; the layers that have it "
                    f"are {', '.join(map(str, cross_layers))}",
                    "attention",
                )
            if not 0 <= head < num_heads:
                raise RequestError(
                    f"there is no head {head}; heads are numbered from 0 to "
                    f"{num_heads - 1}",
                    "attention",
                )
        return sorted(set(pairs))


@dataclass(frozen=True)
class HeadScore:
    """How well a head localizes, judged without labels.

    Attributes:
        head: The head.
        entropy: The mean :func:`~mllama.requests.map_entropy.map_entropy` of the
            clearer half of its maps; the lower, the clearer.
        image_mass: The mean mass on the picture, without class tokens and padding.
    """

    head: Head
    entropy: float
    image_mass: float


@dataclass(frozen=True)
class ImageMaps:
    """Where tokens looked in one image.

    For each token, ``maps``, ``class_mass`` and ``padding_mass`` add up to 1 over all
    images that it attends to.  All are 0 in other images.

    Attributes:
        grid: The image's patches.
        maps: float32 ``[tokens, rows, columns]``, the mass on each patch.
        class_mass: float32 ``[tokens]``, the mass on the class tokens of the tiles.
        padding_mass: float32 ``[tokens]``, the mass on patches of padding.
    """

    grid: PatchGrid
    maps: npt.NDArray[np.float32]
    class_mass: npt.NDArray[np.float32]
    padding_mass: npt.NDArray[np.float32]


@dataclass(frozen=True)
class AttentionMaps:
    """Where the tokens of a prompt and its answer looked.

    Attributes:
        first: The position of the first token that has maps.  A token's map is that of
            the query which predicts it, at the position before.
        images: The maps in each image.
        heads: The heads that the maps are the mean of.
        scores: How well each head localizes, best first, if that was asked for.
    """

    first: int
    images: Sequence[ImageMaps]
    heads: Sequence[Head]
    scores: Sequence[HeadScore] = ()


NO_MAPS: Final = AttentionMaps(0, (), ())
"""The maps of a request without images."""


def check_size(tokens: int, grids: Sequence[PatchGrid]) -> None:
    """Checks that the maps of an answer aren't too large.

    Args:
        tokens: The number of tokens that have maps.
        grids: The images.

    Raises:
        RequestError: If they are.
    """
    patches = sum(grid.image_tokens for grid in grids)
    if tokens * patches > MAX_MAP_VALUES:
        raise RequestError(
            f"attention maps of {tokens} tokens over {patches} image tokens are too "
            f"large: tokens times image tokens may be {MAX_MAP_VALUES}; ask for a "
            "shorter answer or fewer images",
            "attention",
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _are_numbers(value: Any) -> bool:
    return _is_list(value) and bool(value) and all(map(_is_number, value))


def _are_pairs(value: Any) -> bool:
    return (
        _is_list(value)
        and bool(value)
        and all(_are_numbers(pair) and len(pair) == 2 for pair in value)
    )
