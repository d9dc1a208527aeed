"""A figure that moves, used as a reader does and read from its SVG."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.rendered.browser import Browser

CALM: dict[str, Any] = {"prefers_reduced_motion": "reduce"}
FORMULAS = "*mathjax*"
"""What sets formulas; a second is saved where a figure is used without them."""
each_means = pytest.mark.parametrize("means", ["mouse", "touch", "keyboard"])


@dataclass
class Figure:
    """A figure on a page: how to find its parts, and where its plane lies."""

    browser: Browser
    across: tuple[float, float]
    up: tuple[float, float]

    def points(self, selector: str) -> list[tuple[float, float]]:
        """Return the coordinates of all circles that are so selected."""
        found = self.browser.evaluate(
            f"[...document.querySelectorAll('.moving-stage {selector}')].map(c => {{"
            " const box = c.ownerSVGElement.viewBox.baseVal;"
            " const m = c.parentNode.matches('.moving-handle')"
            "   ? c.parentNode.transform.baseVal.consolidate().matrix : {e: 0, f: 0};"
            " return [(+c.getAttribute('cx') + m.e) / box.width,"
            "         1 - (+c.getAttribute('cy') + m.f) / box.height]; })"
        )
        (left, right), (low, high) = self.across, self.up
        return [(left + x * (right - left), low + y * (high - low)) for x, y in found]

    def point(self, selector: str) -> Tensor:
        (found,) = self.points(selector)
        return torch.tensor(found, dtype=torch.float64)

    def words(self) -> str:
        return str(self.browser.of(".moving-words", "it.textContent"))

    def button(self, text: str) -> str:
        """Return a selector of the button that says so."""
        self.browser.evaluate(
            "for (const b of document.querySelectorAll('.moving-buttons button'))"
            " b.dataset.text = b.textContent"
        )
        return f".moving-buttons [data-text='{text}']"

    def slider(self, symbol: str) -> str:
        """Return a selector of the slider whose label begins so."""
        self.browser.evaluate(
            "for (const l of document.querySelectorAll('.moving-slider label'))"
            " l.nextElementSibling.dataset.symbol = l.textContent[0]"
        )
        return f".moving-slider [data-symbol='{symbol}']"

    def value(self, symbol: str) -> float:
        return float(self.browser.of(self.slider(symbol), "it.value"))

    def use(self, selector: str, means: str) -> None:
        """Use a button by mouse, touch or keyboard."""
        if means == "keyboard":
            self.browser.focus(selector)
            self.browser.press("Enter")
        else:
            {"mouse": self.browser.click, "touch": self.browser.tap}[means](selector)

    def move(self, symbol: str, to: float, means: str) -> float:
        """Move a slider to about this value; return where it stands."""
        selector = self.slider(symbol)
        if means != "keyboard":
            return self.browser.slide(selector, to, touch=means == "touch")
        self.browser.focus(selector)
        step, here = float(self.browser.of(selector, "it.step")), self.value(symbol)
        key = "ArrowRight" if to > here else "ArrowLeft"
        self.browser.press(*[key] * round(abs(to - here) / step))
        return self.value(symbol)
