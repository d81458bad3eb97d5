"""The page in a browser: pictures by whole factors, enlarging, sorting, stopping, no requests."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from vfn.pictures import grid, save_png
from vfn.report import compare

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = ({"width": 1300, "height": 900}, 1), ({"width": 390, "height": 800}, 3)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(browser, written, request):
    """The page in a browser, and what it asked for and complained of."""
    size, ratio = request.param
    context = browser.new_context(viewport=size, device_scale_factor=ratio)
    page = context.new_page()
    page.asked, page.told = [], []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.on("console", lambda message: page.told.append(message.text))
    page.on("pageerror", lambda error: page.told.append(str(error)))
    page.goto(written.as_uri())
    page.wait_for_function("() => document.querySelector('.tiles img').style.width !== ''")
    page.ratio = ratio
    yield page
    context.close()


def test_it_asks_for_nothing_and_complains_of_nothing(page):
    outside = [address for address in page.asked if not address.startswith("data:")]
    assert outside == [page.url]
    assert page.told == []


def test_nothing_sticks_out_of_the_page(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_preview_of_ten_classes_is_seen_whole_on_a_desktop(page):
    """Grids of samples during training stand beside each other only where they fit."""
    if page.ratio != DESKTOP[1]:
        pytest.skip("a phone shows them by half the pixels")
    room = page.evaluate("document.querySelector('.previews figure').clientWidth")
    assert room >= grid(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), 10).width


def test_pictures_keep_their_pixels(page):
    for image in page.locator(".tiles img").all():
        natural = image.evaluate("image => image.naturalWidth")
        factor = (
            image.evaluate("image => image.getBoundingClientRect().width") * page.ratio / natural
        )
        assert round(factor) >= 1
        assert factor == pytest.approx(round(factor), abs=0.01)  # browsers round to 1/64 pixel
        assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"


def bands(pixels, size):
    """Whether rows are alike in groups of so many, wherever the first group begins."""
    for start in range(size):
        whole = pixels[start : start + (len(pixels) - start) // size * size]
        groups = whole.reshape(-1, size, whole.shape[1])
        if (groups == groups[:, :1]).all():
            return True
    return False


def test_there_is_no_blur_between_the_pixels(page, written, tmp_path):
    """Each pixel of the file is a square of whole pixels of the screen."""
    shown = page.locator(".tiles img").first
    with Image.open(written.parent / "sample" / "grid.png") as picture:
        natural = picture.width
    shown.screenshot(
        path=tmp_path / "shown.png", style="figure img { border-radius: 0 !important }"
    )
    with Image.open(tmp_path / "shown.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    inside = pixels[4:-4, 4:-4]  # an edge may be between two pixels of the screen
    size = round(pixels.shape[1] / natural)
    assert size >= 2
    assert bands(inside, size)
    assert bands(inside.T, size)


def test_a_picture_is_enlarged_and_left_with_the_keyboard_alone(page):
    first = page.locator("button.zoom").first
    first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('dialog img').style.width !== ''")
    width = "document.querySelector('dialog img').getBoundingClientRect().width"
    before, caption = page.evaluate(width), page.inner_text("#zoomed")
    page.keyboard.press("+")
    assert page.evaluate(width) > before
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"() => document.querySelector('#zoomed').textContent !== {caption!r}")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#zoomed") == caption
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert first.evaluate("button => button === document.activeElement")


def test_columns_are_sorted_by_a_figure(page):
    button = page.locator("th[scope=row] > button.sort").first
    row = "document.querySelector('.figures tbody tr')"
    values = (
        f"[...{row}.querySelectorAll('td[data-value]')].map(cell => Number(cell.dataset.value))"
    )
    heads = "[...document.querySelectorAll('.figures thead th')].map(head => head.textContent)"
    before = dict(zip(page.evaluate(values), page.evaluate(heads)[1:-1], strict=True))
    button.press("Enter")  # lower is better
    assert page.evaluate(values) == sorted(before)
    assert page.evaluate(heads)[1:-1] == [before[value] for value in sorted(before)]
    assert button.locator("..").get_attribute("aria-sort") == "ascending"
    button.press("Enter")
    assert page.evaluate(values) == sorted(before, reverse=True)
    assert button.locator("..").get_attribute("aria-sort") == "descending"
    assert page.evaluate(heads)[-1] == "Reference"


def test_an_animation_can_be_stopped(page):
    button = page.get_by_role("button", name="Stop the animation").first
    button.click()
    assert page.locator("canvas.still").first.is_visible()
    page.get_by_role("button", name="Play the animation").first.click()
    assert page.locator("figure.moving img").first.is_visible()


def test_links_beside_the_titles_can_be_reached(page):
    link = page.locator(".here").first
    link.focus()
    assert link.evaluate("link => link === document.activeElement")
    assert link.evaluate("link => getComputedStyle(link).opacity") == "1"


def test_every_cell_has_its_head(page):
    """Those who hear a table count cells: a head that is not there moves all others."""
    heard = """[...document.querySelectorAll('.figures tr')].map(row =>
        [...row.cells].filter(cell => getComputedStyle(cell).display !== 'none').length)"""
    assert len(set(page.evaluate(heard))) == 1


def test_charts_can_be_read(page):
    """Their letters are a sixtieth of a chart's width: 9 pixels and more, enlarged 16."""
    widths = "[...document.querySelectorAll('.plot img')].map(image => image.width)"
    assert min(page.evaluate(widths)) >= 540
    page.locator(".plot button.zoom").first.click()
    page.wait_for_function("() => document.querySelector('dialog img').style.width !== ''")
    shown = "(image => image.width >= image.naturalWidth)(document.querySelector('dialog img'))"
    assert page.evaluate(shown)


@pytest.fixture
def beside(browser, written, tmp_path):
    """Three runs side by side on a desktop, each with its grids of ten classes."""
    runs = [shutil.copytree(written.parent, tmp_path / name) for name in "abc"]
    for run in runs:
        save_png(run / "sample/grid.png", grid(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), 10))
    context = browser.new_context(viewport=DESKTOP[0])
    page = context.new_page()
    page.goto(compare(runs).as_uri())
    page.wait_for_function("() => document.querySelector('.tiles img').style.width !== ''")
    yield page
    context.close()


def test_pictures_side_by_side_are_seen_whole(beside):
    cut = (
        "[...document.querySelectorAll('.side .frame')].filter(f => f.scrollWidth > f.clientWidth)"
    )
    assert beside.evaluate(f"{cut}.length") == 0
    assert beside.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_rows_keep_their_names_where_a_table_is_scrolled(beside):
    table = beside.locator(".wide:has(.figures)").first
    table.evaluate("room => { room.style.width = '30rem'; room.scrollLeft = 300; }")
    head = "room => room.querySelector('tbody th').getBoundingClientRect()"
    left = table.evaluate("room => room.getBoundingClientRect().left")
    assert table.evaluate("room => room.scrollLeft") > 0
    assert table.evaluate(f"room => ({head})(room).left") == left
    assert table.evaluate(f"room => ({head})(room).width") >= 12 * 16


def test_links_of_the_sections_lead_to_them(page):
    page.get_by_role("navigation").get_by_role("link", name="Evaluation", exact=True).click()
    assert page.url.endswith("#evaluation")
    top = page.locator("#evaluation h2").evaluate("title => title.getBoundingClientRect().top")
    assert 0 <= top < page.viewport_size["height"] / 2


def test_whoever_listens_finds_names(page):
    """Every button, picture, table and region has a name, and there is one main part."""
    for role in ("button", "img", "table", "region"):
        for each in page.get_by_role(role).all():
            named = each.evaluate(
                "e => e.ariaLabel || e.alt || e.textContent.trim() || e.querySelector('img')?.alt"
            )
            assert named, each
    assert page.get_by_role("main").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
