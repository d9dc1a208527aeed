"""The embedded data set: letters of twelve scripts, twenty drawings each.

It plays Omniglot's part where nothing can be downloaded. `make_glyphs` drew it from the
DejaVu fonts and says how; whole scripts are set aside for validation and test, and no
letter of one split looks like a letter of another, not even turned by 90 degrees.
"""

from pathlib import Path

from reptile_lib.data import packed
from reptile_lib.data.parts import About
from reptile_lib.examples import Splits

ABOUT = About(
    "letters of twelve scripts, 20 drawings of 28 x 28 each; whole scripts set aside",
    "MIT, as the library; drawn from the DejaVu fonts",
    "this library",
    "embedded",
)
FILE = Path(__file__).with_name("glyphs.npz")
SHA256 = "fb842a11a989d1fe7fa7af545b6dfef42b915c45777e33a42c7258b75fd18e56"
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
    names, bits = packed.read(FILE, SHA256)

    def split(scripts: tuple[str, ...]) -> list[int]:
        return [i for i, name in enumerate(names) if name.split("/")[0] in scripts]

    rows = {key: split(scripts) for key, scripts in SCRIPTS.items()}
    return Splits(
        **{
            key: packed.to_classes([names[i] for i in chosen], bits[chosen])
            for key, chosen in rows.items()
        }
    )
