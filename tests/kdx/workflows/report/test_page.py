"""The page of ``kdx report`` in a real browser: slider, gallery, keyboard, both widths, both
themes."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from kdx.bundle.open import open_bundle
from tests.browser import Browser, find_browser, open_browser

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or find_browser() is None,
    reason="no Chromium is installed (Debian: apt-get install chromium; CHROMIUM names another)",
)

ODD_TYPE = "a&b <i>"
ODD_NAME = "</script><b>\"'&#39;.png"


@pytest.fixture(scope="module")
def page(cli, tiny_bundle, dataset, tmp_path_factory) -> Path:
    """The report of a calibrated bundle, whose data has names that mean something in HTML."""
    data = Path(shutil.copytree(dataset, tmp_path_factory.mktemp("report") / "odd <data>"))
    for folder in ("test", "ground_truth"):
        (data / folder / "scratch").rename(data / folder / ODD_TYPE)
    # A slash cannot stand in a name: the odd one is made of the rest.
    name = ODD_NAME.replace("/", "")
    (data / "test" / ODD_TYPE / "016.png").rename(data / "test" / ODD_TYPE / name)
    mask = data / "ground_truth" / ODD_TYPE
    (mask / "016_mask.png").rename(mask / f"{Path(name).stem}_mask.png")
    target = data.parent / "page.html"
    cli("report", tiny_bundle, data, "-o", target, "--no-latency")
    return target


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def opened(browser: Browser, page: Path):
    """The page, just opened; it must have asked for nothing and complained of nothing in the
    end."""
    browser.open(page)
    yield browser
    assert browser.errors == []
    assert browser.requests == [page.as_uri()]


def text(browser: Browser, selector: str) -> str:
    return browser.run(f"document.querySelector({selector!r}).innerText")


def move(browser: Browser, slider: str, value: float) -> None:
    browser.run(f"{slider}.value = {value}; {slider}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def counts(browser: Browser) -> tuple[int, int]:
    """Return the false rejects and the misses that the page shows."""
    shown = browser.run("[...document.querySelectorAll('.tile b')].map((each) => each.textContent)")
    return int(shown[0].split()[0]), int(shown[2].split()[0])


def test_it_opens_with_the_bundles_threshold(opened, tiny_bundle):
    threshold = open_bundle(tiny_bundle).manifest.threshold
    assert float(opened.run("document.getElementById('reject-value').value")) == pytest.approx(
        threshold.score, rel=1e-5
    )
    assert "--false-reject-rate 0.2" in text(opened, "#command")
    scores = opened.run("data.images")
    false_rejects = sum(score > threshold.score for score, kind, *_ in scores if kind == 0)
    misses = sum(score <= threshold.score for score, kind, *_ in scores if kind)
    assert counts(opened) == (false_rejects, misses)


def test_the_slider_counts_again(opened):
    assert text(opened, "#tiles").count("95 % interval") == 4
    move(opened, "reject", 0)
    assert "interval" not in text(opened, "#tiles")  # the reader chose it on these images
    assert text(opened, "#tiles").count("at a threshold moved here") == 4
    assert counts(opened) == (4, 0)
    move(opened, "reject", 1000)
    assert counts(opened) == (0, 4)
    cells = opened.run("[...document.querySelectorAll('#types tbody tr:first-child .live')].map((c) => c.textContent)")
    assert cells == ["0 (0.0 %)", "0 (0.0 %)", "4 (100.0 %)"]
    assert "no rate gives a higher threshold" in text(opened, "#said")
    assert opened.run("Number(document.getElementById('on-roc').getAttribute('cx'))") == opened.run("data.box[0]")
    opened.run("document.getElementById('reset').click()")
    assert opened.run("state.reject === data.start")


def test_between_two_thresholds_parts_are_reviewed(opened):
    middle = opened.run(
        "(() => { const all = data.images.map((i) => i[0]).sort((a, b) => a - b); return [all[2], all[5]]; })()"
    )
    opened.run("document.getElementById('has-review').click()")
    opened.run(f"setReject({middle[1]}); setReview({middle[0]})")
    decisions = opened.run("data.images.map(decide)")
    assert (decisions.count("accepted"), decisions.count("review"), decisions.count("rejected")) == (3, 3, 2)
    opened.run("setReview(1e9)")  # never above the other
    assert opened.run("state.review === state.reject")
    assert "--review-rate" not in text(opened, "#command")


def test_the_command_sets_the_threshold_that_it_says(opened, cli, tiny_bundle, dataset, tmp_path):
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "copy.kdx"))
    scores = opened.run("data.settable.map((each) => each[0])")
    opened.run("document.getElementById('has-review').click()")
    opened.run(f"setReject({scores[4] * 1.0001}); setReview({scores[2]})")
    command = text(opened, "#command")
    rates = re.findall(r"--[a-z-]+-rate [\d.]+", command)
    assert len(rates) == 2
    cli("calibrate", bundle, dataset, *" ".join(rates).split())
    threshold = open_bundle(bundle).manifest.threshold
    assert (threshold.score, threshold.review.score) == pytest.approx((scores[4], scores[2]), rel=1e-5)
    opened.run("document.getElementById('snap').click()")
    assert opened.run("[state.reject, state.review]") == [scores[4], scores[2]]
    said = float(re.search(r"sets the threshold ([\d.e-]+)", text(opened, "#said"))[1])
    assert said == pytest.approx(threshold.score, rel=1e-5)


def test_the_gallery_shows_the_worst_mistakes_first(opened):
    opened.run("setReject(data.images.map((i) => i[0]).sort((a, b) => a - b)[3])")
    chips = opened.run("[...document.querySelectorAll('.card .what')].map((each) => each.textContent)")
    mistakes = [chip in {"False reject", "Missed"} for chip in chips]
    assert len(chips) == 8
    assert mistakes == sorted(mistakes, reverse=True)
    assert sum(mistakes) == sum(counts(opened))
    wrong = opened.run("order.map((shown) => wrongness(data.images[shown.index]))")
    assert wrong == sorted(wrong, reverse=True)
    opened.run("show.value = 4; show.dispatchEvent(new Event('change'))")
    assert opened.run("order.map((shown) => data.types[data.images[shown.index][1]])") == ["good"] * 4


def test_scores_are_said_in_units_of_the_threshold_and_among_good_parts(opened, tiny_bundle):
    held_out = np.array(open_bundle(tiny_bundle).manifest.threshold.scores)
    for score, _, _, p in opened.run("data.images"):
        assert p == pytest.approx((1 + (held_out >= score).sum()) / (1 + len(held_out)))
    p = opened.run("data.images[order[0].index][3]")
    shown = opened.run(
        "(() => { const first = order[0]; setReject(data.images[first.index][0] / 2);"
        " return saysOf(first).lastChild.textContent; })()"
    )
    assert re.fullmatch(r"score \S+, 2 × threshold, p \S+", shown)
    assert float(shown.split()[-1]) == pytest.approx(p, rel=1e-3)
    assert f"k of the n = {len(held_out)} held-out good images" in opened.run("document.body.textContent")
    opened.run("document.getElementById('reset').click()")


def test_every_picture_can_be_decoded_and_names_stay_names(opened):
    opened.wait_for("[...document.images].every((image) => image.complete)")
    assert opened.run("[...document.images].length") == 8 * 3 + 4  # the image twice; masks
    assert opened.run("[...document.images].every((image) => image.naturalWidth === 320)")
    names = opened.run("[...document.querySelectorAll('.card .file')].map((each) => each.textContent)")
    assert f"test/{ODD_TYPE}/{ODD_NAME.replace('/', '')}" in names
    assert opened.run("document.querySelectorAll('main b b, main i i, main script').length") == 0
    assert text(opened, "#types tbody th") == ODD_TYPE


def test_the_blend_fades_the_heat_map(opened):
    move(opened, "blend", 25)
    assert opened.run("getComputedStyle(document.querySelector('.heat')).opacity") == "0.25"


def test_the_keyboard_is_enough(opened):
    opened.run("document.getElementById('reject').focus()")
    before = opened.run("state.reject")
    opened.press("ArrowRight", "ArrowRight")
    assert opened.run("state.reject") > before
    opened.run("document.querySelector('.card').focus()")
    opened.press("ArrowRight")
    assert opened.run("[...gallery.children].indexOf(document.activeElement)") == 1
    opened.press("Enter")
    assert opened.run("viewer.open && state.open") == 1
    opened.press("ArrowRight")
    assert text(opened, "#viewer-title") == "3 of 8"
    opened.press("Escape")
    assert opened.run("!viewer.open && document.activeElement.className") == "card"


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_width_and_the_theme_is_readable(browser, page, tmp_path, width, dark):
    browser.open(page, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") == width
    narrow = "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1)"
    assert browser.run(f"{narrow}.map((e) => e.tagName + '.' + e.className)") == []
    assert contrast(browser, "body") > 7
    assert contrast(browser, ".small") > 4.5
    browser.run("theme.click()")
    assert browser.run("document.documentElement.dataset.theme") == ("light" if dark else "dark")
    assert contrast(browser, "body") > 7
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000
    assert browser.errors == []


def contrast(browser: Browser, selector: str) -> float:
    """Return the contrast of an element's text against what lies behind it, as WCAG 2 defines
    it."""
    ink, paper = browser.run(
        f"(() => {{ const e = document.querySelector({selector!r}), p = e.closest('section') || document.body;"
        "return [getComputedStyle(e).color, getComputedStyle(p).backgroundColor]; })()"
    )
    light = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light[0] + 0.05) / (light[1] + 0.05)


def luminance(colour: str) -> float:
    parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.slow
def test_an_uncalibrated_bundle_on_good_images_alone(browser, cli, raw_bundle, dataset, tmp_path):
    shutil.copytree(dataset / "test/good", tmp_path / "good")
    cli("report", raw_bundle, tmp_path / "good", "-o", tmp_path / "page.html", "--no-latency")
    browser.open(tmp_path / "page.html", width=390)
    assert browser.errors == []
    assert browser.run("snap.disabled")
    assert "known once the bundle is calibrated" in text(browser, "#said")
    assert [
        shown.split()[0] for shown in browser.run("[...document.querySelectorAll('.tile b')].map((e) => e.textContent)")
    ] == ["0", "0", "–", "–"]
    assert "no defective images to draw it from" in text(browser, ".curves")
    move(browser, "reject", 0)
    assert browser.run("document.querySelector('.tile b').textContent") == "4 of 4"


def test_without_known_scores_the_command_invents_no_rate(opened):
    command = opened.run(
        "(() => { const kept = data.settable; data.settable = []; sayCommand();"
        " const said = document.getElementById('command').textContent;"
        " data.settable = kept; sayCommand(); return said; })()"
    )
    assert command == opened.run("data.command")
    assert "-rate" in text(opened, "#command")
