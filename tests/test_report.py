"""The report in headless Chromium: what a user sees, and that it asks for nothing."""

import asyncio
import io
import itertools
from pathlib import Path

import pytest
from chromium import Tab, visit
from comparisons import comparison, variant
from test_compare import ORIGIN, by_layer, many_predictions

from bitlite.images.decoding import Image
from bitlite.report import judged, mistakes, page, picture

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
    html = page.report(
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


def test_page_draws_without_a_request_or_a_complaint(address):
    async def use(tab: Tab):
        for width, scheme in itertools.product((1280, 390), ("light", "dark")):
            tab.requests.clear()
            await tab.open(address, width=width, scheme=scheme)
            await tab.until(f"{DRAWN} == 2")
            assert await tab.evaluate(ROWS) == NAMES
            # Two charts; of the variant that is too large only the edge has its colour.
            assert await tab.evaluate(POINTS) == 2 * (len(NAMES) - 1)
            # Nothing sticks out sideways.
            assert await tab.evaluate("document.documentElement.scrollWidth == document.documentElement.clientWidth")
            await tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            await tab.until(f"{DRAWN} == 4")
            assert await tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            ink = await tab.evaluate("getComputedStyle(document.body).color")
            label = await tab.evaluate(f"getComputedStyle({LABEL}).fill")
            assert ink == label == {"light": "rgb(31, 35, 40)", "dark": "rgb(230, 237, 243)"}[scheme]
            assert [each for each in tab.requests if not each.startswith("data:")] == [address]
            assert tab.complaints == []

    visit(use)


def test_a_point_tells_its_numbers_and_a_name_hides_its_points(address):
    async def use(tab: Tab):
        await tab.open(address)
        await tab.until(f"{DRAWN} == 2")
        await tab.evaluate("document.querySelector('.chart').scrollIntoView()")
        places = await tab.evaluate(
            """[...document.querySelectorAll('.chart')[0].querySelectorAll('path[aria-label]')].map(path => {
                 const box = path.getBoundingClientRect();
                 return [box.x + box.width / 2, box.y + box.height / 2];
               })"""
        )
        told = set()
        for x, y in places:
            await tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
            await asyncio.sleep(0.2)
            told.add(await tab.evaluate("document.querySelector('.vg-tooltip')?.innerText"))
        (lean,) = [text.split() for text in told if text and "lean-float32" in text]
        assert "size 360 kB latency 1.60 ms memory 40.0 MB to lean-int8 tie 1.00" in " ".join(lean)
        before = await tab.evaluate(POINTS)
        await tab.evaluate("document.querySelector('[value=\"pruning=lean\"]').click()")
        await tab.until(f"{POINTS} == {before - 2 * len(QUANTIZATIONS)}")
        await tab.evaluate("document.querySelector('[value=\"pruning=lean\"]').click()")
        await tab.until(f"{POINTS} == {before}")
        assert tab.complaints == []

    visit(use)


def test_headings_sort(address):
    async def use(tab: Tab):
        await tab.open(address)
        await tab.until(f"{DRAWN} == 2")
        await tab.evaluate(
            "[...document.querySelectorAll('.sortable button')].find(b => b.innerText == 'Size').click()"
        )
        rows = await tab.evaluate(
            "[...document.querySelectorAll('.sortable tbody th')].map(cell => cell.dataset.value)"
        )
        assert rows == NAMES[::-1]

    visit(use)


def test_without_scripts_there_are_the_table_and_a_picture(address):
    async def use(tab: Tab):
        await tab.open(address, scripts=False)
        text = await tab.evaluate("document.querySelector('.sortable').innerText")
        assert all(name in text for name in NAMES)
        assert await tab.evaluate("document.querySelector('img.static')?.naturalWidth") == 1760
        assert await tab.evaluate("getComputedStyle(document.querySelector('.legend')).display") == "none"
        assert tab.complaints == []

    visit(use)


def test_what_goes_wrong_would_be_seen(tmp_path):
    (tmp_path / "page.html").write_text("<img src='missing.png'><script>console.warn('one'); nothing.here</script>")

    async def use(tab: Tab):
        await tab.open(Path(tmp_path / "page.html").as_uri())
        await tab.until("document.images[0].complete")
        assert len(tab.requests) == 2 and len(tab.complaints) >= 2

    visit(use)
