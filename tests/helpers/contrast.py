"""How well a colour is seen on another one, as WCAG 2 reckons it."""

import numpy as np
from matplotlib.colors import to_rgb


def contrast(one, other):
    """From 1 to 21: text is to have 4.5, lines 3."""
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour):
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))
