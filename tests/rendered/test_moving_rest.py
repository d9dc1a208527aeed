"""The figure of 3.3, used as a reader does and compared with the library's bowls."""

import pytest
import torch
from torch import Tensor

from reptile_book import rest_control
from reptile_lib import Quadratics
from tests.rendered.book import HTML
from tests.rendered.browser import Browser
from tests.rendered.figure import CALM, FORMULAS, Figure, each_means

H = torch.tensor(
    [[[1.8, 0.4], [0.4, 0.5]], [[0.3, 0], [0, 1]], [[0.5, -0.2], [-0.2, 0.4]]]
)
MINIMA = torch.tensor([[2.0, 1.0], [-1.0, 2.0], [0.5, -2.0]])
HANDLES = [f".moving-handle.{colour} .m-dot" for colour in ("blue", "red", "green")]


def opened_rest(browser: Browser) -> Figure:
    page = HTML / "chapters/03-algorithm/convergence.html"
    browser.open(page.as_uri(), 800, touch=True, blocked=FORMULAS, **CALM)
    return Figure(browser, rest_control.ACROSS, rest_control.UP)


def check_rest(figure: Figure, minima: Tensor) -> None:
    """Compare the picture and the words with the library, as the sliders stand."""
    bowls = Quadratics(H.double(), minima.double())
    alpha, k = figure.value("α"), int(figure.value("k"))
    at = rest_control.starts(bowls, alpha, k)
    assert torch.allclose(figure.point(".m-rest"), at.rest.double(), atol=1e-5)
    walk = torch.tensor(figure.points(".m-walk"), dtype=torch.float64)
    assert torch.allclose(walk, rest_control.walk(bowls, alpha).double(), atol=1e-5)
    end = figure.point(".m-end")  # drawn at random: near the place where it rests
    assert (end - at.rest).norm() < 0.25
    words = figure.words()
    for phi, of in ((at.rest, "φ*"), (at.joint, "the minimum"), (at.best, "the best")):
        loss = rest_control.loss_after(phi, bowls, alpha, k)
        told = f"{loss:.3f}" if loss >= 0.001 else "below 0.001"
        assert f"{told} from {of}" in words
    far = (at.rest - at.joint).norm(), (at.rest - minima.double().mean(0)).norm()
    assert f"{far[0]:.2f} from the minimum" in words
    assert f"{far[1]:.2f} from the mean" in words


@each_means
def test_sliders_move_where_phi_rests(browser: Browser, means: str) -> None:
    figure = opened_rest(browser)
    check_rest(figure, MINIMA)
    for symbol, to in (("k", 12), ("α", 0.2), ("k", 1), ("α", 1.0), ("k", 60)):
        before = figure.point(".m-rest")
        assert figure.move(symbol, to, means) == pytest.approx(to, abs=1)
        assert not torch.equal(figure.point(".m-rest"), before) or (symbol, to) == (
            "α",
            1,
        )
        check_rest(figure, MINIMA)
    figure.use(figure.button("Start again"), means)
    assert (figure.value("k"), figure.value("α")) == (5, 0.5)
    check_rest(figure, MINIMA)


@each_means
@pytest.mark.parametrize("bowl", range(3))
def test_bowls_can_be_dragged(browser: Browser, means: str, bowl: int) -> None:
    figure, minima = opened_rest(browser), MINIMA.clone()
    handle = HANDLES[bowl].removesuffix(" .m-dot")
    if means == "keyboard":
        browser.focus(handle)
        browser.press("ArrowLeft", "ArrowLeft", "ArrowDown")
        minima[bowl] += torch.tensor([-0.2, -0.1])
    else:
        pixels = browser.of(".moving-stage svg", "it.getBoundingClientRect().width")
        scale = (figure.across[1] - figure.across[0]) / pixels
        drag = browser.drag if means == "mouse" else browser.swipe
        drag(handle, (-30, 20))
        minima[bowl] += torch.tensor([-30 * scale, -20 * scale])
    found = torch.stack([figure.point(handle) for handle in HANDLES])
    # the plane's height is rounded to a pixel
    assert torch.allclose(found, minima.double(), atol=5e-3)
    check_rest(figure, found)
    told = browser.of(handle, "it.getAttribute('aria-valuetext')")
    assert told.startswith(f"{found[bowl, 0]:.2f}".replace("-", "−"))
    figure.use(figure.button("Start again"), "mouse")
    check_rest(figure, MINIMA)


def test_bowls_stay_in_the_picture(browser: Browser) -> None:
    figure = opened_rest(browser)
    browser.drag(".moving-handle.blue", (900, -900))
    x, y = figure.points(HANDLES[0])[0]
    assert figure.across[1] - 0.5 < x < figure.across[1]
    assert figure.up[1] - 0.5 < y < figure.up[1]
