"""The report as a reader meets it: a file opened in Chromium, without a network."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium
from evaluations import make_findings
from PIL import Image

from miad_cli.evaluation.findings import Findings
from miad_cli.evaluation.report import write_report

pytestmark = pytest.mark.slow

SIZE = 96
HOSTILE = "<img src=x onerror=\"document.title='owned'\"></script><script>alert(1)</script>"


@dataclass
class Opened:
    """A page, what the browser said about it, and what it asked for."""

    page: Any
    url: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def check(self) -> None:
        assert self.said == []
        assert {one for one in self.asked if not one.startswith("data:")} == {self.url}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Samples whose three pictures are all different, with a class that is no harmless word."""
    made = make_findings(samples=2, size=SIZE, label=HOSTILE)
    samples = tuple(replace(one, recovered=255 - one.original) for one in made.samples)
    return replace(made, samples=samples)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, findings: Findings) -> Path:
    page = tmp_path_factory.mktemp("report") / "out.html"
    write_report(findings, page)
    return page


def open_page(browser: Any, path: Path, **options: Any) -> Opened:
    options = {"viewport": {"width": 1280, "height": 900}, **options}
    page = browser.new_context(**options).new_page()
    opened = Opened(page, path.as_uri())
    page.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: opened.said.append(str(error)))
    page.on("dialog", lambda dialog: (opened.said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: opened.asked.append(request.url))
    page.goto(opened.url)
    return opened


@pytest.fixture(scope="module")
def light(browser: Any, path: Path) -> Iterator[Opened]:
    opened = open_page(browser, path, color_scheme="light")
    yield opened
    opened.check()
    opened.page.context.close()


@pytest.fixture(scope="module")
def dark(browser: Any, path: Path) -> Iterator[Opened]:
    opened = open_page(browser, path, color_scheme="dark")
    yield opened
    opened.check()
    opened.page.context.close()


# --- Nothing comes in or goes out -------------------------------------------------------------


def test_page_opens_without_a_word_and_asks_for_nothing(light: Opened) -> None:
    light.check()
    assert light.page.title() == "Evaluation of protection: brain MRI, test split"
    assert light.page.evaluate("[...document.images].every(one => one.naturalWidth > 0)")


def test_policy_keeps_strangers_out(browser: Any, path: Path) -> None:
    """What the page did not bring along is neither run nor fetched."""
    opened = open_page(browser, path)
    opened.page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "document.title = 'owned'";
      const picture = document.createElement("img");
      picture.src = "http://127.0.0.1:9/leak.png";
      document.body.append(script, picture);
      return fetch("http://127.0.0.1:9/leak").catch(() => 0);
    }""")
    assert opened.page.title() != "owned"
    refused = [one for one in opened.said if "Content Security Policy" in one]
    assert len(refused) >= 3, opened.said
    opened.page.context.close()


def test_hostile_label_is_text(light: Opened) -> None:
    assert HOSTILE in light.page.locator(".sample h3").first.inner_text()
    assert light.page.locator("script").count() == 1
    assert light.page.locator("img[onerror], [onclick]").count() == 0


# --- The slider -------------------------------------------------------------------------------


def seen(opened: Opened) -> np.ndarray:
    """The first sample's pictures as they are seen, (SIZE, SIZE) uint8."""
    shot = opened.page.locator(".stack").first.screenshot()
    shown = Image.open(io.BytesIO(shot)).convert("L").resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(shown)


def off(shown: np.ndarray, expected: np.ndarray) -> float:
    """Mean difference in grey levels; scaling a picture costs a few."""
    return float(np.abs(shown.astype(int) - expected).mean())


def test_slider_moves_by_keyboard_and_changes_the_picture(
    light: Opened, findings: Findings
) -> None:
    sample, slider = findings.samples[0], light.page.locator("input[type=range]").first
    slider.focus()
    for key, value, pixels in (
        ("Home", 0, sample.original),
        ("End", 200, sample.recovered),
    ):
        light.page.keyboard.press(key)
        assert slider.input_value() == str(value)
        assert off(seen(light), pixels) < 5
    assert light.page.locator("output").first.inner_text() == "not the same as the original"
    light.page.keyboard.press("Home")
    for _ in range(20):
        light.page.keyboard.press("ArrowRight")
    assert slider.input_value() == "100"
    assert slider.get_attribute("aria-valuetext") == "protected"
    assert off(seen(light), sample.protected) < 5
    assert off(seen(light), sample.original) > 10


def test_slider_wipes_by_mouse(light: Opened, findings: Findings) -> None:
    sample, slider = findings.samples[0], light.page.locator("input[type=range]").first
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    light.page.mouse.move(box["x"] + box["width"] / 2, middle)
    light.page.mouse.down()
    light.page.mouse.move(box["x"] + box["width"] * 0.75, middle, steps=4)
    light.page.mouse.up()
    assert slider.input_value() == "150"
    assert slider.get_attribute("aria-valuetext") == "left recovered, right protected"
    shown, left, right = seen(light), slice(0, SIZE // 2 - 3), slice(SIZE // 2 + 3, None)
    assert off(shown[:, left], sample.recovered[:, left]) < 5
    assert off(shown[:, right], sample.protected[:, right]) < 5


def test_buttons_below_the_slider_lead_to_each_picture(light: Opened, findings: Findings) -> None:
    light.page.get_by_role("button", name="original").first.click()
    assert off(seen(light), findings.samples[0].original) < 5


def test_without_script_the_pictures_stand_side_by_side(browser: Any, path: Path) -> None:
    opened = open_page(browser, path, java_script_enabled=False)
    images = opened.page.locator(".stack").first.locator("img")
    boxes = [images.nth(place).bounding_box() for place in range(3)]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert boxes[1]["x"] + boxes[1]["width"] <= boxes[2]["x"]
    assert not opened.page.locator("input[type=range]").first.is_visible()
    opened.page.context.close()


# --- Tables -----------------------------------------------------------------------------------


def column(opened: Opened, table: str, place: int) -> list[str]:
    return opened.page.locator(f"#{table} tbody tr > :nth-child({place})").all_inner_texts()


def first_number(text: str) -> float:
    return float(text.split(maxsplit=1)[0].replace("−", "-").replace("∞", "inf"))


def test_tables_sort_by_mouse_and_back(light: Opened) -> None:
    head = light.page.locator("#table-robust thead th").nth(2)
    given = column(light, "table-robust", 1)
    head.get_by_role("button").click()
    numbers = [first_number(one) for one in column(light, "table-robust", 3)]
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers == sorted(numbers) and numbers[0] < 0
    head.get_by_role("button").click()
    numbers = [first_number(one) for one in column(light, "table-robust", 3)]
    assert head.get_attribute("aria-sort") == "descending"
    assert numbers == sorted(numbers, reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert column(light, "table-robust", 1) == given


def test_tables_sort_by_keyboard(light: Opened) -> None:
    heads = light.page.locator("#table-seen thead th")
    given = column(light, "table-seen", 1)
    heads.nth(0).get_by_role("button").focus()
    light.page.keyboard.press("Enter")
    assert column(light, "table-seen", 1) == sorted(given) != given
    light.page.keyboard.press("Tab")
    light.page.keyboard.press("Space")
    assert heads.nth(0).get_attribute("aria-sort") == "none"
    assert heads.nth(1).get_attribute("aria-sort") == "ascending"
    searches = column(light, "table-seen", 2)
    assert searches == sorted(searches)


def test_what_was_not_measured_stays_below(light: Opened) -> None:
    button = light.page.locator("#table-unseen thead th").nth(3).get_by_role("button")
    for _ in range(2):
        button.click()
        assert column(light, "table-unseen", 4)[-1] == "–"
    button.click()


def test_infinite_is_above_every_number(light: Opened) -> None:
    button = light.page.locator("#table-removal-psnr thead th").nth(2).get_by_role("button")
    button.click()
    button.click()
    assert column(light, "table-removal-psnr", 3)[0] == "∞"


# --- For everybody ----------------------------------------------------------------------------


NAMELESS = """() => {
  const wrong = [];
  const all = (query) => [...document.querySelectorAll(query)];
  for (const one of all("img")) if (!one.alt.trim()) wrong.push("img without alt");
  for (const one of all("input, output"))
    if (!one.labels.length || !one.labels[0].textContent.trim()) {
      if (one.tagName === "INPUT") wrong.push("input without label");
    }
  for (const one of all("button")) {
    const name = one.getAttribute("aria-label") ?? one.textContent;
    if (!/[\\p{L}\\p{N}]/u.test(name)) wrong.push(`button without name: ${one.outerHTML}`);
  }
  for (const one of all("svg"))
    if (one.getAttribute("aria-hidden") !== "true" && !one.querySelector("title")?.textContent)
      wrong.push("svg without title");
  for (const one of all("[aria-labelledby]"))
    for (const id of one.getAttribute("aria-labelledby").split(" "))
      if (!document.getElementById(id)?.textContent.trim()) wrong.push(`no ${id}`);
  for (const one of all("thead th")) if (one.scope !== "col") wrong.push("th without scope");
  for (const one of all("table")) if (!one.caption) wrong.push("table without caption");
  for (const one of all("nav a"))
    if (!document.querySelector(one.getAttribute("href"))) wrong.push(`no ${one.href}`);
  const ids = all("[id]").map((one) => one.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push(`twice: ${id}`);
  const levels = all("h1, h2, h3, h4").map((one) => Number(one.tagName[1]));
  levels.forEach((one, at) => { if (one > (levels[at - 1] ?? 0) + 1) wrong.push(`h${one}`); });
  if (document.documentElement.lang !== "en" || all("main").length !== 1) wrong.push("no lang");
  return wrong;
}"""


def test_everything_has_a_name(light: Opened) -> None:
    assert light.page.evaluate(NAMELESS) == []


FAINT = """() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((one) => {
      const share = one / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (!colour.endsWith(", 0)")) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  let seen = 0;
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.checkVisibility() || ["SCRIPT", "TITLE", "DESC"].includes(one.tagName))
      continue;
    const style = getComputedStyle(one);
    const text = one instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(text), light(behind(one))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen += 1;
    if (contrast < 4.5) found.push([one.outerHTML.slice(0, 80), text, contrast]);
  }
  return [seen, found];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(scheme: str, request: pytest.FixtureRequest) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    count, faint = request.getfixturevalue(scheme).page.evaluate(FAINT)
    assert count > 100
    assert faint == []


def test_dark_mode_is_dark(light: Opened, dark: Opened) -> None:
    def grey(opened: Opened) -> float:
        shot = Image.open(io.BytesIO(opened.page.screenshot())).convert("L")
        return float(np.median(np.asarray(shot)))

    light.page.evaluate("scrollTo(0, 0)")
    assert grey(light) > 240
    assert grey(dark) < 40


def test_line_of_a_chart_follows_the_dark(light: Opened, dark: Opened) -> None:
    def colours(opened: Opened) -> list[str]:
        return opened.page.evaluate(
            "[...document.querySelectorAll('.chart .line, .chart .bar')]"
            ".map(one => getComputedStyle(one).stroke + getComputedStyle(one).fill)"
        )

    assert colours(light)
    assert all(a != b for a, b in zip(colours(light), colours(dark), strict=True))


def test_table_that_is_too_wide_is_a_stop_for_the_keyboard(browser: Any, path: Path) -> None:
    opened = open_page(browser, path, viewport={"width": 390, "height": 800})
    frame = ".scroll:has(#table-seen)"
    opened.page.wait_for_selector(f"{frame}[tabindex='0']")
    opened.page.set_viewport_size({"width": 1280, "height": 800})
    opened.page.wait_for_selector(f"{frame}[tabindex='-1']")
    opened.page.context.close()


OUT_OF_VIEW = """() => {
  const frames = [...document.querySelectorAll(".scroll")]
    .filter((one) => one.scrollWidth > one.clientWidth);
  return frames.flatMap((frame) => [0, frame.scrollWidth].map((left) => {
    frame.scrollLeft = left;
    const [inner, outer] = [frame.querySelector("caption span"), frame]
      .map((one) => one.getBoundingClientRect());
    return inner.left >= outer.left - 1 && inner.right <= outer.right + 1;
  }));
}"""


def test_caption_of_a_wide_table_stays_in_view(browser: Any, path: Path) -> None:
    opened = open_page(browser, path, viewport={"width": 390, "height": 800})
    inside = opened.page.evaluate(OUT_OF_VIEW)
    assert inside
    assert all(inside)
    opened.page.context.close()


def test_telephone_does_not_scroll_sideways(browser: Any, path: Path) -> None:
    opened = open_page(browser, path, viewport={"width": 390, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    opened.check()
    opened.page.context.close()


# --- On paper ---------------------------------------------------------------------------------


def test_paper_shows_everything(browser: Any, path: Path) -> None:
    opened = open_page(browser, path)
    page = opened.page
    page.emulate_media(media="print")
    images = page.locator(".stack").first.locator("img")
    boxes = [images.nth(place).bounding_box() for place in range(3)]
    assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]
    assert len({round(box["y"]) for box in boxes}) == 1
    clips = (
        "[...document.querySelectorAll('.layer img')].map(one => getComputedStyle(one).clipPath)"
    )
    assert set(page.evaluate(clips)) == {"none"}
    assert page.locator(".layer figcaption").first.is_visible()
    assert not page.locator("nav").is_visible()
    assert not page.locator("input[type=range]").first.is_visible()
    shut = "document.querySelectorAll('details:not([open])').length"
    assert page.evaluate(shut) == page.locator("details").count() > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(shut) == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(shut) > 0
    assert page.pdf(format="A4").startswith(b"%PDF")
    opened.check()
    page.context.close()
