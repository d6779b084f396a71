"""The report in a real browser: what a person sees, by mouse, by keyboard, on a phone; and live."""

from __future__ import annotations

import json
import math
from pathlib import Path

import PIL.Image
import pytest
from browser import browser_fixture, visit_fixture  # noqa: F401
from command_desk import (
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    run,
)
from conftest import smooth_picture
from live_run import live_run_fixture  # noqa: F401
from recorded import many_layers, recorded

import nstcore.report
from nstcore import images
from nstcore.report import MOST_BYTES, read_page

PAIR = ("photos/a.png", "art/x.png", "-o", "out.png", "--quiet", "--report", "out.html")
LADDER = ("--iterations", 50, "--size", 96, "--ladder", 48)


@pytest.fixture(scope="module", name="report")
def report_fixture(tmp_path_factory, furniture) -> Path:
    """The report of a run of 50 iterations at three sizes, with its log beside it."""
    folder = tmp_path_factory.mktemp("report")
    inputs = (furniture / "photos/a.png", furniture / "art/x.png", "-o", folder / "out.png", "--quiet")
    page = folder / "out.html"
    where = ("--weights", furniture / "weights.h5", "--report", page, "--log", folder / "log.jsonl")
    assert run(*inputs, *LADDER, *where) == 0
    assert page.stat().st_size < MOST_BYTES
    return page


def shown(page, curve: str, chart: str = "#terms") -> float:
    """The number that stands under a curve's name."""
    return float(page.get_attribute(f'{chart} .legend button[data-name="{curve}"] data', "value"))


def left(page, selector: str) -> str:
    return page.locator(selector).evaluate("node => node.style.left")


def test_a_page_opens_without_a_word_and_asks_nobody_for_anything(report, visit):
    page, seen = visit(report.as_uri())
    data = read_page(report)
    assert page.inner_text("h1") == "out.png"
    assert "Complete" in page.inner_text("#lead")
    assert seen.requests == [f"GET {report.as_uri()}"] + [r for r in seen.requests if r.startswith("GET data:")]
    assert page.locator("img").count() == 5
    for image in page.locator("img").all():
        assert image.get_attribute("alt")
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")
    assert page.inner_text("#command") == data["command"]
    for section in ("#times", "#memory", "#settings", "#weights", "#machine", "#events"):
        assert page.inner_text(section)


def test_the_slider_goes_by_mouse_and_by_keyboard(report, visit):
    page, _ = visit(report.as_uri())
    assert left(page, "#handle") == "50%"
    box = page.locator("#compare").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 80)
    assert left(page, "#handle") == "25%"
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 80)
    assert left(page, "#handle") == "25%"
    for key, at in (("ArrowRight", "26%"), ("ArrowLeft", "25%"), ("Home", "0%"), ("End", "100%")):
        page.keyboard.press(key)
        assert left(page, "#handle") == at
        clip = page.locator("#before").evaluate("node => node.style.clipPath")
        assert clip.split()[1] == f"{100 - int(at[:-1])}%"
    assert page.get_attribute("#split", "aria-valuetext") == "100 % content"


@pytest.mark.slow
def test_the_picture_over_time_goes_by_mouse_by_keyboard_and_by_itself(report, visit):
    page, _ = visit(report.as_uri())
    frames = read_page(report)["frames"]
    assert page.get_attribute("#frame", "src") == frames[-1]["src"]
    page.focus("#scrub")
    page.keyboard.press("Home")
    assert page.get_attribute("#frame", "src") == frames[0]["src"]
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#frame", "src") == frames[1]["src"]
    assert "Evaluation 2: iteration 1, 48 \u00d7 40 pixels" in page.inner_text("#moment")
    page.keyboard.press("End")
    assert page.get_attribute("#frame", "src") == frames[-1]["src"]
    box = page.locator("#scrub").bounding_box()
    page.mouse.click(box["x"] + 1, box["y"] + box["height"] / 2)
    assert page.get_attribute("#frame", "src") == frames[0]["src"]
    page.click("#play")
    assert page.get_attribute("#play", "aria-pressed") == "true"
    page.wait_for_selector('#scrub:not([aria-valuetext^="iteration 0,"])')
    page.keyboard.press("Space")  # the button has the focus
    assert page.inner_text("#play") == "Play"
    assert page.get_attribute("#frame", "src") != frames[0]["src"]


@pytest.mark.slow
def test_the_curves_say_the_runs_own_numbers(report, visit):
    lines = [json.loads(line) for line in (report.parent / "log.jsonl").read_text().splitlines()]
    steps = [line["losses"] for line in lines if line["kind"] == "step"]
    page, _ = visit(report.as_uri())
    assert shown(page, "total") == steps[-1]["total"]
    assert shown(page, "style relu1_1", "#layers") == steps[-1]["style_layers"]["relu1_1"]
    page.focus("#terms .plot")
    page.keyboard.press("Home")
    for step in steps[:3]:
        for name in ("total", "content", "style", "tv"):
            assert shown(page, name) == step[name]
        page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    assert page.get_attribute("#terms .plot", "aria-valuenow") == str(len(steps))
    page.check("#weighed")
    assert shown(page, "style") == 10 * steps[-1]["style"]
    assert shown(page, "total") == steps[-1]["total"]
    # By the pointer, where the middle size begins
    box = page.locator("#terms .plot").bounding_box()
    page.mouse.move(box["x"] + 55, box["y"] + 100)
    assert page.inner_text("#terms .at").startswith("evaluation 1, 48")
    assert shown(page, "total") == steps[0]["total"]


@pytest.mark.slow
def test_a_curve_is_hidden_and_shown_by_its_name_and_sizes_are_marked(report, visit):
    page, _ = visit(report.as_uri())
    sizes = read_page(report)["sizes"]
    assert len(sizes) == 3
    assert page.locator("#terms line.size").count() == 2
    for size in (sizes[0], sizes[-1]):  # the one between them has no room for its name
        assert f"{size['width']} px" in page.locator("#terms svg").first.text_content()
    page.focus("#terms .plot")
    page.keyboard.press("Home")
    for _ in range(sizes[1]["evaluation"] - 1):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#terms .at") == f"evaluation {sizes[1]['evaluation']}, 68 \u00d7 57"
    curves = page.locator("#terms path.curve")
    assert curves.count() == 4
    page.click('#terms [data-name="tv"]')
    assert curves.count() == 3
    assert page.get_attribute('#terms [data-name="tv"]', "aria-pressed") == "false"
    page.keyboard.press("Enter")  # the name keeps the focus
    assert curves.count() == 4


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_light_and_in_dark_and_can_be_told_which(report, visit, scheme):
    page, _ = visit(report.as_uri(), color_scheme=scheme)

    def colours() -> tuple[float, float]:
        """How bright text and paper are, 0 to 1."""
        found = page.evaluate(
            "() => [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        channels = [[int(c) for c in text[text.index("(") + 1 : -1].split(",")[:3]] for text in found]
        return tuple(sum(c) / 765 for c in channels)

    text, paper = colours()
    assert (text < 0.2 and paper > 0.9) if scheme == "light" else (text > 0.8 and paper < 0.1)
    page.click("#theme")
    text, paper = colours()
    assert (text > 0.8 and paper < 0.1) if scheme == "light" else (text < 0.2 and paper > 0.9)


@pytest.mark.slow
def test_on_a_phone_nothing_scrolls_sideways_and_fingers_find_the_slider(report, visit):
    page, _ = visit(report.as_uri(), width=320, height=640, has_touch=True)
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    wide = page.evaluate("() => document.documentElement.scrollWidth")
    assert wide == 320
    outside = page.evaluate(
        "() => [...document.querySelectorAll('main *')].filter(n => n.getBoundingClientRect().right > 321).length"
    )
    assert outside == 0
    box = page.locator("#compare").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.75, box["y"] + 20)
    assert left(page, "#handle") == "75%"


@pytest.mark.slow
def test_everything_can_be_reached_by_the_tab_key_and_shows_it(report, visit):
    page, _ = visit(report.as_uri())
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.className"))
        drawn = page.evaluate(
            """() => [document.activeElement, document.activeElement.parentElement]
                .some(n => getComputedStyle(n).outlineStyle === 'solid')"""
        )
        assert drawn, reached[-1]
        if reached[-1] == "copy":
            break
    assert [name for name in reached if name in ("theme", "split", "play", "scrub", "plot", "command", "copy")] == [
        *("theme", "split", "play", "scrub", "plot", "plot", "command", "copy")
    ]


@pytest.mark.slow
def test_levels_of_the_pyramid_are_chosen_and_left_out_evaluations_told(tmp_path, visit):
    pixels = smooth_picture(40, 60).transpose(2, 0, 1)
    facts = {"command": "", "settings": [], "weights": [], "machine": [], "version": "", "begun": ""}
    facts |= {"factors": {"content": 1, "style": 1, "tv": 1}, "memory": {"width": 1, "height": 1, "buffers": {"a": 1}}}
    data = recorded(4001, pixels, many_layers(2)).data() | facts
    data["pictures"]["content"]["name"] = "a.png"
    data["pictures"]["styles"] = []
    (tmp_path / "a.html").write_bytes(nstcore.report.page(data))
    page, _ = visit((tmp_path / "a.html").as_uri())
    assert page.locator("#level option").all_inner_texts() == ["the picture", "level 1/2", "level 1/4"]
    assert shown(page, "level 1/4") == math.e
    assert f"One evaluation in {data['losses']['every']} " in page.inner_text("#loss-note")
    data["losses"]["values"]["4:style.relu1_1"][-1] = 0.125
    (tmp_path / "a.html").write_bytes(nstcore.report.page(data))
    page.reload()
    page.select_option("#level", "4")
    assert shown(page, "style relu1_1", "#layers") == 0.125


@pytest.mark.slow
def test_a_hostile_name_is_a_name(desk, visit):
    name = "<img src=x onerror=alert(1)>\"'&\u202e{{data}}.png"
    Path("photos/a.png").rename(f"photos/{name}")
    assert run(f"photos/{name}", *PAIR[1:3], name, *PAIR[4:]) == 0
    page, seen = visit(Path("out.html").resolve().as_uri())
    assert page.text_content("h1") == name
    assert page.locator("img").count() == 5
    assert not [request for request in seen.requests[1:] if not request.startswith("GET data:")]


@pytest.mark.slow
def test_live_the_values_arrive_and_stop_keeps_the_picture(desk, live_run, visit):
    begun = live_run(*PAIR, "--iterations", 30)
    begun.allow(2)
    begun.reached(2)
    page, seen = visit(begun.live.address)
    assert "Running" in page.inner_text("#lead")
    first = shown(page, "total")
    begun.allow(3)
    page.wait_for_selector('#terms .plot[aria-valuenow="5"]')
    assert shown(page, "total") < first
    assert page.inner_text("#left").startswith("4 of 30 iterations")
    page.click("#stop")
    page.wait_for_selector("#stop:disabled")
    while not begun.live.stop_asked:
        page.wait_for_timeout(10)
    begun.allow(2)  # the step at hand, and the average at the end
    page.wait_for_selector("#why:not([hidden])")
    assert "its server has gone" in page.inner_text("#why")
    assert "Interrupted" in page.inner_text("#lead")
    begun.thread.join(10)
    assert begun.code == 130
    assert shown(page, "total") == read_page("out.html")["losses"]["values"]["total"][-1]
    assert {request.split("?")[0].removeprefix(begun.live.address) for request in seen.requests} <= {
        *(f"GET {begun.live.address}{path}" for path in ("", "data")),
        f"POST {begun.live.address}stop",
    } | {request for request in seen.requests if request.startswith("GET data:")}
    with PIL.Image.open("out.png") as picture:
        assert picture.width == 24
    assert not images.read_metadata("out.png")["complete"]
