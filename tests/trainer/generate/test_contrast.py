"""The palettes that are furthest from each other, by a rule."""

from __future__ import annotations

import numpy as np

from trainer.generate.contrast import as_text, contrasts


def palette(*colours: str) -> np.ndarray:
    return np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in colours], np.uint8)


def test_each_contrast_is_another_palette() -> None:
    made = [palette(c, "808080") for c in ("d02010", "208020", "2040d0", "050505", "fafafa", "909088")]
    found = contrasts(made)
    assert found == {"reddest": 0, "greenest": 1, "bluest": 2, "darkest": 3, "brightest": 4}
    assert contrasts(made[:2]) == {"reddest": 0, "greenest": 1}, "where there are few, each is taken once"
    assert contrasts([]) == {}


def test_a_hue_is_more_than_far_from_grey() -> None:
    """Purple lies as far to the red as a dull red does, but further aside."""
    assert contrasts([palette("a030c0"), palette("904030")])["reddest"] == 1


def test_palettes_as_they_are_written_by_hand() -> None:
    assert as_text(palette("ff8800", "002244")) == "#ff8800 #002244"
