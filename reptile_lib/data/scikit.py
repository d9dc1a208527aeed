"""Two small sets that come with scikit-learn: handwritten digits and breast cancer."""

import random
from functools import partial

import numpy as np
import torch

from reptile_lib.errors import UserError
from reptile_lib.examples import Examples, Splits
from reptile_lib.reading.arrays import Arrays, Paths, Source, arrays_of
from reptile_lib.reading.parts import About, Parts
from reptile_lib.reading.split import split_classes

LICENCE = "scikit-learn, which brings it, is BSD-3-Clause; its source states none there"
PAGE = "https://scikit-learn.org/stable/datasets/toy_dataset.html"
DIGITS = About(
    "1,797 drawings of the ten digits by 13 people, 8 x 8; five digits for training,"
    " two for validation, three for testing, by seed",
    LICENCE,
    "Alpaydin, Kaynak 1998, Cascading Classifiers, Kybernetika",
    PAGE,
)
CANCER = About(
    "30 measurements of cell nuclei in each of 569 samples, 212 malignant, 357 benign:"
    " few, from one hospital; no medical device comes of them",
    LICENCE,
    "Street, Wolberg, Mangasarian 1993, Nuclear feature extraction, SPIE 1905:861-870",
    PAGE,
)
KINDS = "malignant", "benign"


def load_digits(seed: int = 0, val: float = 0.2, test: float = 0.3) -> Splits:
    """Return digits in white on black, uint8 [examples, 1, 8, 8] per class, names "0".

    `val` and `test` are the shares of the ten classes that are set aside, by seed
    (`split.split_classes`); with 0 and 0, `train` has all ten.

    Raises:
        UserError: the shares leave no digit to train, or scikit-learn is not installed.
    """
    arrays = arrays_of(DIGITS_SOURCE)
    x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    classes = Examples([x[y == n] for n in range(10)], tuple(map(str, range(10))))
    return split_classes(classes, val=val, test=test, seed=seed)


def load_breast_cancer(
    seed: int = 0, val: float = 0.2, test: float = 0.2
) -> Parts[Examples]:
    """Return measurements, float32 [samples, 30] per class, of malignant and benign.

    The parts share no sample, but both classes: `val` and `test` are shares of each
    class's samples, drawn by seed. Columns are the mean, the standard error and the
    worst of radius, texture, perimeter, area, smoothness, compactness, concavity,
    concave points, symmetry and fractal dimension: first ten means, then ten errors.
    They are as measured, not standardised.

    The set is small, of one hospital, and of 1995. What is trained on it shows how a
    method works; it is no medical device, and no advice for anyone.

    Raises:
        UserError: a share leaves a part without samples, or scikit-learn is not
            installed.
    """
    if min(val, test) < 0.01 or val + test > 0.99:
        raise UserError(
            f"val = {val}, test = {test}; give shares from 0.01, at most 0.99 in all"
        )
    arrays = arrays_of(CANCER_SOURCE)
    chance, parts = random.Random(seed), []
    for kind in range(len(KINDS)):
        x = torch.from_numpy(arrays["x"][arrays["y"] == kind])
        cuts = round(len(x) * (1 - val - test)), round(len(x) * (1 - test))
        order = chance.sample(range(len(x)), len(x))
        parts.append(x[order].tensor_split(cuts))
    return Parts(*(Examples(list(own), KINDS) for own in zip(*parts, strict=True)))


def _read(_: Paths, name: str) -> Arrays:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UserError(
            f"{name} comes with scikit-learn, which is not installed; give the command"
            " pip install scikit-learn"
        ) from error
    if name == "digits":
        file = datasets.load_digits()
        x = np.rint(file.images[:, None] * 255 / 16).astype(np.uint8)  # 0 to 16 there
    else:
        file = datasets.load_breast_cancer()
        x = file.data.astype(np.float32)
    return {"x": x, "y": file.target.astype(np.int64)}


DIGITS_SOURCE = Source(
    "digits",
    "3e466178bf88557386564faf4a07c6e1af22bda536b2cffd11175a57ba4c9c93",
    (),
    partial(_read, name="digits"),
)
CANCER_SOURCE = Source(
    "breast-cancer",
    "f7768446777ea6dd0993532cd376cd0dc36485cb3b81bf7baaa239af64b53df9",
    (),
    partial(_read, name="breast-cancer"),
)
