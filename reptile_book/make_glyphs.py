"""Draw the embedded data set: ``python -m reptile_book.make_glyphs``.

Letters of twelve scripts are taken from the DejaVu fonts that matplotlib carries (free
licence, see `LICENSE_DEJAVU` beside them there) and drawn the way Omniglot's look: a
face is chosen, its outline is thinned to a pen path, the path is bent, sheared, turned,
scaled and moved a little, and drawn with a round pen.

Twins are merged before anything is drawn: of letters whose paths coincide (Latin A,
Greek Alpha, Cyrillic A; O and o; the Canadian syllabics that are quarter turns of each
other) only the first stays. Training scripts come first in the order, so a letter of a
validation or test script that looks like a training letter is left out.

The stored file was made with matplotlib 3.11.2, fontTools 4.68.0 and numpy 2.4.6, and
these make it again bit for bit: drawings need + - * / of single numbers only (no sine,
no matrix product), so they do not depend on the processor.
"""

import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from fontTools.pens.basePen import BasePen
from fontTools.ttLib import TTFont
from numpy.typing import NDArray

from reptile_lib.data import packed
from reptile_lib.data.glyphs import FILE, SCRIPTS
from reptile_lib.data.packed import SIDE
from reptile_lib.reading.arrays import fingerprint

Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]
Point = tuple[float, float]
Stamp = tuple[NDArray[np.float32], NDArray[np.float32]]

EXAMPLES = 20
GRID = 96  # of the bitmap that is thinned
FACES = ("Sans", "SansMono", "Serif", "Serif-Italic")  # bold ones only blot the path
TWIN_GRID = 33  # of the bitmaps compared to find twins; odd: turns about a cell
# Twins: the mean distance between their paths, in cells, is at most
SAME = 0.2  # within a split: dots and accents still tell letters apart
ALIKE = 0.65  # between splits: what resembles a training letter cannot test learning


class Outline(BasePen):  # type: ignore[misc]
    """Collects a glyph's contours as straight segments [n, 2 ends, 2 coordinates]."""

    def __init__(self, glyphs: object) -> None:
        super().__init__(glyphs)
        self.segments: list[tuple[Point, Point]] = []

    def _moveTo(self, point: Point) -> None:  # noqa: N802
        self.start = self.at = point

    def _lineTo(self, point: Point) -> None:  # noqa: N802
        self.segments.append((self.at, point))
        self.at = point

    def _qCurveToOne(self, control: Point, end: Point) -> None:  # noqa: N802
        (ax, ay), (bx, by), (cx, cy) = self.at, control, end
        for i in range(1, 9):
            t, s = i / 8, 1 - i / 8
            self._lineTo(
                (
                    s * s * ax + 2 * s * t * bx + t * t * cx,
                    s * s * ay + 2 * s * t * by + t * t * cy,
                )
            )

    def _closePath(self) -> None:  # noqa: N802
        self._lineTo(self.start)


def fill(segments: Floats) -> Bits:
    """Return the bitmap [GRID, GRID] of an outline, fitted to it, y downwards.

    Non-zero winding, sampled at the centres of the cells.
    """
    low, high = segments.min((0, 1)), segments.max((0, 1))
    scale = (GRID - 4) / max(float((high - low).max()), 1.0)
    points = (segments - (low + high) / 2) * scale
    (x0, y0), (x1, y1) = points[:, 0].T + GRID / 2, points[:, 1].T + GRID / 2
    rows = np.arange(GRID) + 0.5  # [row, 1] against [segment]
    above = rows[:, None] >= y0, rows[:, None] >= y1
    row, segment = np.nonzero(above[0] != above[1])
    slope = (x1 - x0)[segment] / (y1 - y0)[segment]
    crossing = x0[segment] + (rows[row] - y0[segment]) * slope
    winding = np.zeros((GRID, GRID + 1), np.int64)
    column = np.clip(np.ceil(crossing - 0.5).astype(np.int64), 0, GRID)
    np.add.at(winding, (row, column), np.where(y1 > y0, 1, -1)[segment])
    inside: Bits = winding.cumsum(1)[::-1, :GRID] != 0
    return inside


def thin(image: Bits) -> Bits:
    """Return the one-cell-wide skeleton of a bitmap (Guo and Hall 1989, algorithm A1).

    Two half-passes in turn remove the border cells that are neither ends of a line nor
    needed to hold it together, until nothing changes.
    """
    ink = np.pad(image, 1)
    ring = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
    idle = 0
    half = 0
    while idle < 2:
        n, ne, e, se, s, sw, w, nw = (
            np.roll(ink, (-dy, -dx), (0, 1)) for dy, dx in ring
        )
        branches = (
            (~n & (ne | e)).astype(np.int8)
            + (~e & (se | s))
            + (~s & (sw | w))
            + (~w & (nw | n))
        )
        pairs = np.minimum(
            (nw | n).astype(np.int8) + (ne | e) + (se | s) + (sw | w),
            (n | ne).astype(np.int8) + (e | se) + (s | sw) + (w | nw),
        )
        keep = (s | sw | ~nw) & w if half else (n | ne | ~se) & e
        gone = ink & (branches == 1) & (pairs >= 2) & (pairs <= 3) & ~keep
        ink &= ~gone
        idle = 0 if gone.any() else idle + 1
        half = 1 - half
    return ink[1:-1, 1:-1]


def paths(character: str) -> list[Floats]:
    """Return the pen path of a character in each face that has it: [points, 2].

    The longer side of a path runs from -1 to 1, its box is centred, y points downwards.
    A glyph of dots only has none: too little ink.
    """
    found = []
    for font in fonts():
        name = font.getBestCmap().get(ord(character))
        if name is None:
            continue
        outline = Outline(font.getGlyphSet())
        font.getGlyphSet()[name].draw(outline)
        if not outline.segments:
            continue
        points = np.argwhere(thin(fill(np.array(outline.segments))))[:, ::-1]
        low, high = points.min(0), points.max(0)
        side = (high - low).max()
        if min(side, len(points)) >= GRID / 2:
            found.append((2.0 * points - (low + high)) / side)
    return found


@cache
def fonts() -> list[TTFont]:
    """Return the faces that letters are drawn from."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    return [TTFont(folder / f"DejaVu{face}.ttf") for face in FACES]


def candidates() -> Iterator[tuple[str, str]]:
    """Yield (script, character), in the order in which the first of twins is kept.

    Ligatures and other shapes that Unicode calls compatibility forms are no letters of
    their own, and more than one accent does not show on 28 x 28 pixels.
    """
    letters = sorted({code for font in fonts() for code in font.getBestCmap()})
    for script in (script for split in SCRIPTS.values() for script in split):
        for character in map(chr, letters):
            name = unicodedata.name(character, "")
            parts = unicodedata.normalize("NFD", character)
            if (
                name.startswith(script.upper() + " ")
                and unicodedata.category(character).startswith("L")
                and not unicodedata.decomposition(character).startswith("<")
                and len(parts) <= 2
            ):
                yield script, character


def stamp(path: Floats) -> Stamp:
    """Return a path on a coarse grid, in two framings and four turns of each.

    Both [2 framings, 4 turns, TWIN_GRID**2]: 1 in the cells of the path, 0 elsewhere;
    and how far each cell is from the path, in 16ths of a cell: whole numbers, so that
    sums of them are exact in any order. The second framing stretches the shorter side
    to the longer one, so that a wide and a narrow O coincide (but a bar stays a bar).
    """
    axis = np.arange(TWIN_GRID)
    half = TWIN_GRID // 2
    lines, distances = [], []
    for points in (path, path / np.maximum(np.abs(path).max(0), 0.2)):
        x, y = np.rint(points * (half - 3)).astype(np.int64).T + half
        line = np.zeros((TWIN_GRID, TWIN_GRID), np.float32)
        line[y, x] = 1
        dy, dx = axis[:, None] - y, axis[:, None] - x
        squares = ((dy * dy)[:, None] + (dx * dx)[None]).min(2)
        distance = np.rint(16 * np.sqrt(squares)).astype(np.float32)
        lines.append([np.rot90(line, k).ravel() for k in range(4)])
        distances.append([np.rot90(distance, k).ravel() for k in range(4)])
    return np.array(lines), np.array(distances)


class Kept:
    """The letters kept so far, ready to be compared with the next one."""

    def __init__(self, paths: int) -> None:
        self.count = 0
        self.lines = np.zeros((2, paths, TWIN_GRID**2), np.float32)
        self.distances = np.zeros_like(self.lines)

    def add(self, letter: list[Stamp]) -> None:
        """Add a letter, given as the stamps of its paths in all faces."""
        for line, distance in letter:
            self.lines[:, self.count] = line[:, 0]  # unturned
            self.distances[:, self.count] = distance[:, 0]
            self.count += 1

    def has_twin(self, letter: list[Stamp], apart: float) -> bool:
        """Tell whether a letter coincides with a kept one in any face and any turn.

        Two paths coincide if the cells of each are, on average, at most so many cells
        apart from the other.
        """
        limit = 16 * apart
        for frame in range(2):
            line = np.concatenate([lines[frame] for lines, _ in letter])
            distance = np.concatenate([distances[frame] for _, distances in letter])
            others = self.lines[frame, : self.count]
            there = line @ self.distances[frame, : self.count].T
            back = distance @ others.T
            near = there <= limit * line.sum(1, keepdims=True)
            if (near & (back <= limit * others.sum(1))).any():
                return True
        return False


def letters() -> Iterator[tuple[str, str, list[Floats]]]:
    """Yield (script, character, paths) of every class, twins merged."""
    pool = [(*one, paths(one[1])) for one in candidates()]
    total = sum(len(found) for *_, found in pool)
    kept = {split: Kept(total) for split in SCRIPTS}
    home = {script: split for split in SCRIPTS for script in SCRIPTS[split]}
    for script, character, found in pool:
        letter = [stamp(path) for path in found]
        limits = {split: SAME if split == home[script] else ALIKE for split in kept}
        if letter and not any(
            kept[split].has_twin(letter, limits[split]) for split in kept
        ):
            kept[home[script]].add(letter)
            yield script, character, found


def draw(character: str, found: list[Floats]) -> Bits:
    """Return EXAMPLES drawings of a letter [EXAMPLES, SIDE, SIDE], true is paper.

    The numbers are drawn from the character's own stream, so that any class can be
    made without the others.
    """
    rng = np.random.default_rng(ord(character))

    def jitter(width: float) -> float:
        return float(rng.uniform(-width, width))

    pixels = np.arange(SIDE) + 0.5 - SIDE / 2
    drawings = np.ones((EXAMPLES, SIDE, SIDE), np.bool_)
    for drawing in drawings:
        x, y = found[rng.integers(len(found))].T
        # a smooth bend: each coordinate pushed by a quadratic form of both
        bend = [jitter(0.16) for _ in range(6)]
        x, y = (
            x + bend[0] * (y * y - 0.5) + bend[1] * x * y + bend[2] * x * x,
            y + bend[3] * (x * x - 0.5) + bend[4] * x * y + bend[5] * y * y,
        )
        x, y = x + jitter(0.25) * y, y + jitter(0.1) * x
        t = jitter(0.13)  # tangent of half the angle of the turn: up to 15 degrees
        cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        x, y = cos * x - sin * y, sin * x + cos * y
        x, y = x - (x.min() + x.max()) / 2, y - (y.min() + y.max()) / 2
        size = rng.uniform(7.5, 10.5)
        x = x * size * (1 + jitter(0.15)) + jitter(1.5)
        y = y * size * (1 + jitter(0.15)) + jitter(1.5)
        pen = rng.uniform(0.7, 1.1)
        dx, dy = pixels[:, None] - x, pixels[:, None] - y
        distance = ((dy * dy)[:, None] + (dx * dx)[None]).min(2)  # [row, column]
        drawing[distance <= pen * pen] = False
    return drawings


def main() -> None:
    """Draw all letters, write the file beside the loader, print its fingerprint."""
    names, drawings = [], []
    for script, character, found in letters():
        names.append(f"{script}/U+{ord(character):04X}")
        drawings.append(draw(character, found))
    arrays = {"names": np.array(names), "bits": packed.pack(np.array(drawings))}
    np.savez_compressed(FILE, **arrays)  # type: ignore[arg-type]
    print(f"{FILE}: {len(names)} letters, sha256 {fingerprint(arrays)}")


if __name__ == "__main__":
    main()
