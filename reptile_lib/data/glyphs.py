"""The embedded data set: letters of twelve scripts, twenty drawings each.

It plays Omniglot's part where nothing can be downloaded. `make_glyphs` drew it from the
DejaVu fonts and says how; whole scripts are set aside for validation and test, and no
letter of one split looks like a letter of another, not even turned by 90 degrees.
"""

from pathlib import Path

from reptile_lib.data import packed
from reptile_lib.errors import UserError
from reptile_lib.examples import Examples, Splits
from reptile_lib.reading.arrays import fingerprint, read_npz
from reptile_lib.reading.parts import About

ABOUT = About(
    "letters of twelve scripts, 20 drawings of 28 x 28 each; whole scripts set aside",
    "MIT, as the library; drawn from the DejaVu fonts",
    "this library",
    "embedded",
)
FILE = Path(__file__).with_name("glyphs.npz")
SHA256 = "c82a7be79be1353339ce2ce95eccd3e1f48a22bf9c9bfecd694ec16a94ed3e4f"
SCRIPTS = {
    "train": ("Latin", "Greek", "Cyrillic", "Canadian Syllabics", "Old Italic"),
    "val": ("Arabic", "Armenian", "Hebrew"),
    "test": ("Georgian", "Lao", "Tifinagh", "NKo"),
}


def load() -> Splits:
    """Return the glyphs: images [classes, 20, 1, 28, 28], names "Georgian/U+10D0".

    Raises:
        UserError: the file beside this module is missing or damaged.
    """
    return read(FILE)


def read(path: Path) -> Splits:
    """Read the glyphs from a file and verify them."""
    remedy = "install the package again"
    if not path.exists():
        raise UserError(f"{path} is missing: {remedy}")
    try:
        arrays = read_npz(path)
        if fingerprint(arrays) != SHA256:
            raise UserError("it holds something else")
    except UserError as error:
        raise UserError(f"{path} is damaged: {remedy}") from error
    names = [str(name) for name in arrays["names"]]

    def part(scripts: tuple[str, ...]) -> Examples:
        rows = [i for i, name in enumerate(names) if name.split("/")[0] in scripts]
        return packed.to_classes([names[i] for i in rows], arrays["bits"][rows])

    return Splits(*(part(SCRIPTS[key]) for key in Splits._fields))
