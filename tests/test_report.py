"""The report in headless Chromium: what a user sees, and that it asks for nothing."""

import io
import itertools
import time

import pytest
from comparisons import comparison, variant
from needed import missing
from test_compare import ORIGIN, by_layer, many_predictions

from benchmarks.devtools import chromium
from bitlite.images.decoding import Image
from bitlite.report import judged, mistakes, picture
from bitlite.report.page import report
from bitlite.workflow.errors import InputError

PRUNINGS, QUANTIZATIONS = ("dense", "channels", "lean"), ("float32", "dynamic", "int8")
NAMES = [f"{pruning}-{quantization}" for pruning in PRUNINGS for quantization in QUANTIZATIONS]
POINTS = "document.querySelectorAll('.charts:first-of-type .mark-symbol path[fill^=\"var(--colour\"]').length"
ROWS = "[...document.querySelectorAll('.sortable tbody th')].map(cell => cell.dataset.value)"
LABEL = "document.querySelector('.mark-text text[fill=\"var(--ink)\"]')"
DRAWN = "document.querySelectorAll('.chart svg').length"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """Of the report on nine variants, one of which is too large."""
    variants = [
        variant(
            name, size_bytes=900_000 - 90_000 * number, latency_ms_p50=4 - 0.4 * number, accuracy=0.9 - 0.01 * number
        )
        for number, name in enumerate(NAMES)
    ]
    chosen = comparison(*variants, max_size_bytes=850_000)
    examples = ((png(number), 0) for number in range(16))
    curve = {"loss": [(1, 2.0), (2, 1.0)], "accuracy": [(1, 0.5), (2, 0.6)], "validation_accuracy": [(2, 0.7)]}
    html = report(
        chosen,
        ORIGIN,
        by_layer(*NAMES),
        many_predictions(),
        mistakes.worst(many_predictions(), examples),
        {"fine-tuning": curve, "channels": curve},
        {"seed": 7},
        judged.Judged({name: dict.fromkeys(judged.MEANINGS, 0.1) for name in NAMES}, [judged.Class("a", 8, 0.5, 0.5)]),
        picture.tradeoff(chosen),
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html)
    return path.as_uri()


def png(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (9 * number, 0, 0)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def browser():
    try:
        with chromium() as page:
            yield page
    except InputError as error:
        missing(str(error))


@pytest.fixture
def page(browser):
    browser.requests.clear()
    browser.complaints.clear()
    browser.screen(1280, 900)
    return browser


def opened(page, address):
    page.open(address)
    page.until(f"{DRAWN} == 2")


@pytest.mark.parametrize(("width", "scheme"), itertools.product((1280, 390), ("light", "dark")))
def test_page_draws_without_a_request_or_a_complaint(width, scheme, page, address):
    page.screen(width, 900, scheme, phone=width < 600)
    opened(page, address)
    assert page.value(ROWS) == NAMES
    # Two charts; of the variant that is too large only the edge has its colour.
    assert page.value(POINTS) == 2 * (len(NAMES) - 1)
    # Nothing sticks out sideways.
    assert page.value("document.documentElement.scrollWidth == document.documentElement.clientWidth")
    page.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.until(f"{DRAWN} == 4")
    assert page.value("[...document.images].every(image => image.naturalWidth > 0)")
    ink = page.value("getComputedStyle(document.body).color")
    label = page.value(f"getComputedStyle({LABEL}).fill")
    assert ink == label == {"light": "rgb(31, 35, 40)", "dark": "rgb(230, 237, 243)"}[scheme]
    assert [each for each in page.requests if not each.startswith("data:")] == [address]
    assert page.complaints == []


def test_a_point_tells_its_numbers_and_a_name_hides_its_points(page, address):
    opened(page, address)
    page.value("document.querySelector('.chart').scrollIntoView()")
    places = page.value(
        """[...document.querySelectorAll('.chart')[0].querySelectorAll('path[aria-label]')].map(path => {
             const box = path.getBoundingClientRect();
             return [box.x + box.width / 2, box.y + box.height / 2];
           })"""
    )
    told = set()
    for x, y in places:
        page.point(x, y)
        time.sleep(0.2)
        told.add(page.value("document.querySelector('.vg-tooltip')?.innerText"))
    (lean,) = [text.split() for text in told if text and "lean-float32" in text]
    assert "size 360 kB latency 1.60 ms memory 40.0 MB to lean-int8 tie 1.00" in " ".join(lean)
    before = page.value(POINTS)
    page.click("[value='pruning=lean']")
    page.until(f"{POINTS} == {before - 2 * len(QUANTIZATIONS)}")
    page.click("[value='pruning=lean']")
    page.until(f"{POINTS} == {before}")
    assert page.complaints == []


def test_headings_sort(page, address):
    opened(page, address)
    page.value("[...document.querySelectorAll('.sortable button')].find(each => each.innerText == 'Size').click()")
    assert page.value(ROWS) == NAMES[::-1]


def test_without_scripts_there_are_the_table_and_a_picture(page, address):
    page.open(address, scripts=False)
    text = page.value("document.querySelector('.sortable').innerText")
    assert all(name in text for name in NAMES)
    assert page.value("document.querySelector('img.static')?.naturalWidth") == 1760
    assert page.value("getComputedStyle(document.querySelector('.legend')).display") == "none"
    assert page.complaints == []


def test_what_goes_wrong_would_be_seen(page, tmp_path):
    (tmp_path / "page.html").write_text("<img src='missing.png'><script>console.warn('one'); nothing.here</script>")
    page.open((tmp_path / "page.html").as_uri())
    page.until("document.images[0].complete")
    assert len(page.requests) == 2 and len(page.complaints) >= 2
