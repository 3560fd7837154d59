"""Infers the parameters of llama3 RoPE scaling from the factors in ggml's files.

ggml's files have the result of the scaling instead of its parameters: for each pair of
a head's dimensions, the number that divides its frequency (``rope_freqs.weight``).  The
rule is that of Llama 3.1, transformers' rope type ``llama3``: wavelengths shorter than
``original / high_freq_factor`` tokens stay, those longer than ``original /
low_freq_factor`` are multiplied by ``factor``, and between them the frequency is
interpolated, linearly in the number of wavelengths that fit the original context.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mllama.config import Llama3RopeScaling
from mllama.config.rope import llama3_factors, wavelengths

Floats = npt.NDArray[np.float64]

PUBLISHED = Llama3RopeScaling(8.0, 1.0, 4.0, 8192)
"""Parameters of Meta's models; Ollama's converter uses them for missing fields."""

_ROUNDING = 1e-5
"""Relative tolerance; the factors are computed and stored in float32."""

_MAX_CONTEXT = 2**30

_OFFSETS = (1 / (PUBLISHED.high_freq_factor - 1), 1.0, 10.0, 1000.0)
"""Candidates if the factors don't tell how wide the interpolated range is."""


def infer_scaling(
    factors: npt.NDArray[np.floating], theta: float
) -> Llama3RopeScaling | None:
    """Returns parameters that give these factors, or None if nothing is scaled.

    Several sets of parameters give the same factors.  The returned one has a
    ``low_freq_factor`` of 1, as in every published model, unless the original context
    then isn't an integer.

    Args:
        factors: ``[head_dim / 2]``.
        theta: Base of the rotary embedding.

    Raises:
        ValueError: If no parameters give these factors.
    """
    with np.errstate(invalid="ignore"):  # The file may be damaged.
        wanted = np.asarray(factors, np.float64)
    if not np.isfinite(wanted).all() or (wanted <= 0).any():
        raise ValueError("factors must be numbers above 0")
    if np.allclose(wanted, 1, rtol=_ROUNDING, atol=0):
        return None
    # A damaged file's numbers may overflow; the results are compared anyway.
    with np.errstate(all="ignore"):
        for scaling in (PUBLISHED, *_candidates(wanted, theta)):
            found = llama3_factors(scaling, 2 * len(wanted), theta)
            if np.allclose(found, wanted, rtol=_ROUNDING, atol=0):
                return scaling
    raise ValueError("these are not the factors of a llama3 scaling")


def _candidates(factors: Floats, theta: float) -> Iterator[Llama3RopeScaling]:
    """Yields candidates; the caller checks whether they give the factors."""
    waves = wavelengths(2 * len(factors), theta)
    factor = _rounded(float(factors[-1]))
    if math.isclose(factor, 1):
        return
    # The share of a frequency that stays is slope / wavelength - offset, within 0..1;
    # slope is original / (high - low) and offset is low / (high - low).
    share = (1 / factors - 1 / factor) / (1 - 1 / factor)
    between = (share > 2 * _ROUNDING) & (share < 1 - 2 * _ROUNDING)
    if between.sum() > 1:
        frequencies, shares = 1 / waves[between], share[between]
        slope = float((shares[0] - shares[-1]) / (frequencies[0] - frequencies[-1]))
        yield from _as_parameters(
            factor, slope, slope * float(frequencies[0]) - shares[0]
        )
        return
    if between.any():
        # One equation for two unknowns.
        wave, stays = float(waves[between][0]), float(share[between][0])
    else:
        # A step between the last wavelength that stays and the first that doesn't.
        count = int((share > 0.5).sum())
        wave, stays = float(waves[0]) / 2, 0.5
        if 0 < count < len(waves):
            wave = math.sqrt(waves[count - 1] * waves[count])
    for offset in _OFFSETS:
        yield from _as_parameters(factor, (stays + offset) * wave, offset)


def _as_parameters(
    factor: float, slope: float, offset: float
) -> Iterator[Llama3RopeScaling]:
    """Yields parameters of the scaling that have this slope and offset."""
    if not (0 < slope < math.inf and 0 < offset < math.inf):
        return
    longest = slope / offset  # original / low_freq_factor
    if not 0 < longest < _MAX_CONTEXT:
        return
    ratio = 1 + 1 / float(offset)
    yield Llama3RopeScaling(factor, 1.0, _rounded(ratio), max(1, round(longest)))
    yield Llama3RopeScaling(factor, 1.0, ratio, max(1, round(longest)))
    published = PUBLISHED.original_max_position_embeddings
    low = published / longest
    yield Llama3RopeScaling(factor, low, low * ratio, published)


def _rounded(value: float) -> float:
    """Drops the digits beyond the precision of float32."""
    return float(f"{value:.5g}")
