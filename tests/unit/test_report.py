"""The report: what stands in the page, the JSON and the CSV files, and how they are written."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from evaluations import MODELS, make_findings, make_meta, make_sample
from PIL import Image

from miad_cli.errors import OutputExists, UsageError
from miad_cli.evaluation.findings import (
    Bar,
    Bars,
    Beside,
    Column,
    Curve,
    Curves,
    DataFacts,
    Findings,
    Headline,
    Meta,
    ModelFacts,
    Removed,
    Summary,
    Table,
)
from miad_cli.evaluation.intervals import Estimate
from miad_cli.evaluation.page.markup import number
from miad_cli.evaluation.report import (
    check_place,
    csv_files,
    json_bytes,
    page_bytes,
    write_report,
)
from miad_cli.files import PART_PREFIX

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "report.schema.json"
HOSTILE = "</title></script><script>alert('x')</script><img src=x onerror=alert(1)> \"'&"


class Page(HTMLParser):
    """The elements of a page, and the texts of its table cells and of everything."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.cells: list[str] = []
        self.raw: dict[str, str] = {"style": "", "script": ""}
        self._open = ""
        self.feed(content.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag in (*self.raw, "td", "th", "table"):
            self._open = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._open:
            self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.raw:
            self.raw[self._open] += data
            return
        self.texts.append(data)
        if self._open in ("td", "th"):
            self.cells[-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def meta(self, name: str) -> str:
        wanted = [
            one for one in self.of("meta") if name in (one.get("name"), one.get("http-equiv"))
        ]
        return wanted[0]["content"] or ""

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def page_of(findings: Findings) -> Page:
    return Page(page_bytes(findings))


def with_table(*rows: tuple[Any, ...], **changes: Any) -> Findings:
    """Findings of a single table: a text, and a figure."""
    columns = (Column("name", "name"), Column("figure", "figure", digits=2))
    table = Table("one", "seen", "One", "", columns, rows, **changes)
    return replace(make_findings(samples=0), tables=(table,), bars=(), curves=())


@pytest.fixture(scope="module")
def findings() -> Findings:
    return make_findings(samples=1)


@pytest.fixture(scope="module")
def page(findings: Findings) -> Page:
    return page_of(findings)


# --- The page ---------------------------------------------------------------------------------


def test_page_names_nothing_outside_itself(page: Page) -> None:
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#"))
    assert not page.of("link") and not page.of("base") and not page.of("iframe")
    assert "url(" not in page.raw["style"] and "@import" not in page.raw["style"]


def test_policy_lets_only_its_own_style_and_script_run(page: Page) -> None:
    rules = dict(
        rule.strip().split(" ", 1) for rule in page.meta("Content-Security-Policy").split(";")
    )
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.raw[name].encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    for tag, attributes in page.elements:
        assert not [one for one in attributes if one.startswith("on") or one == "style"], tag


def hostile_findings() -> Findings:
    """Findings in which every text that can be anybody's is HOSTILE."""
    bad = HOSTILE
    model = ModelFacts(bad, bad, bad, "00" * 32, bad, bad)
    data = DataFacts(bad, 2, 1, ((bad, 1),), "given")
    meta = replace(
        make_meta(),
        data=data,
        models=(model,),
        command=bad,
        device=bad,
        profile=bad,
        libraries={bad: bad},
        settings={bad: bad},
    )
    sample = make_sample(np.random.default_rng(1), 1, 32, bad)
    sample = replace(sample, removed=(Removed(bad, sample.original, bad),), facts=((bad, bad),))
    column, line = Column("a", bad), np.array([0.0, 1.0])
    figure = Estimate(0.5, 0.4, 0.6, 9)
    return Findings(
        meta=meta,
        summary=Summary((bad,), (Headline(bad, bad, bad), Headline(bad, figure, bad)), (bad,)),
        tables=(Table("t", bad, bad, bad, (column,), ((bad,), (figure,)), bad),),
        bars=(Bars("b", bad, bad, bad, ((bad, (Bar(bad, figure),)),), bad),),
        curves=(Curves("c", bad, bad, bad, (Curve(bad, line, line, figure),)),),
        samples=(sample,),
        values={bad: figure},
    )


def test_hostile_text_stays_text() -> None:
    made = page_of(hostile_findings())
    assert len(made.of("script")) == 1 and len(made.of("title")) >= 1
    assert all((one.get("src") or "").startswith("data:") for one in made.of("img"))
    assert not [one for _, attributes in made.elements for one in attributes if one[:2] == "on"]
    assert made.text.count(HOSTILE) >= 20
    assert all(HOSTILE in (one["alt"] or "") for one in made.of("img"))


def test_marks_that_turn_text_around_are_shown_as_such() -> None:
    made = with_table(("a\u202eb\x00c\ud800", 1.0))
    assert "a\ufffdb\ufffdc\ufffd" in page_of(made).cells


def test_summary_comes_first_and_says_where_labels_came_from() -> None:
    sections = [one["id"] for one in page_of(make_findings(samples=1)).of("section")]
    assert sections[0] == "summary" and sections[-1] == "settings" and "pictures" in sections
    own = "taken for the truth"
    assert own in page_of(make_findings(samples=0, labels_from="predictions")).text
    assert own not in page_of(make_findings(samples=0)).text


def test_cells_carry_interval_paper_and_sample_size() -> None:
    made = with_table(
        ("a", Beside(Estimate(0.426, 0.351, 0.494, 25), 0.3182)),
        ("b", Beside(Estimate(0.5, 0.5, 0.5, 1, "none"), None)),
        ("c", None),
    )
    cells = page_of(made).cells
    at = cells.index("a")
    assert cells[at : at + 9] == [
        *("a", "0.43 0.35–0.49 n 25", "0.32"),
        *("b", "0.50 n 1", "–"),
        *("c", "–", "–"),
    ]


def test_sample_size_that_all_cells_share_is_said_once() -> None:
    shared = page_of(with_table(("a", Estimate(0.4, 0.3, 0.5, 25)), ("b", 1)))
    assert "0.40 0.30–0.50" in shared.cells
    assert "n = 25 throughout." in shared.text


def test_columns_without_a_figure_of_the_paper_have_no_column_for_it() -> None:
    assert "paper" not in page_of(with_table(("a", 0.1))).cells
    assert "paper" in page_of(with_table(("a", Beside(0.1, 0.2)))).cells


def test_headline_is_per_cent_and_beside_the_paper() -> None:
    headline = Headline("left", Estimate(0.5, 0.41, 0.59, 30), "", 0.4583, "lower", as_share=True)
    made = replace(make_findings(samples=0), summary=Summary(("Said.",), (headline,)))
    text = page_of(made).text
    for part in ("50 %", "95 % interval: 41–59 %", "n = 30", "paper: 46 %", "lower is better"):
        assert part in text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.4251, 2, "0.43"),
        (1234, 2, "1,234"),
        (1234.5, 1, "1,234.5"),
        (-3.5, 1, "−3.5"),
        (-0.001, 2, "0.00"),
        (float("inf"), 1, "∞"),
        (float("nan"), 1, "–"),
    ],
)
def test_numbers_for_people(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


# --- Plots ------------------------------------------------------------------------------------


def test_bars_are_as_long_as_their_figures() -> None:
    group = ("", (Bar("half", 1.0), Bar("all", Estimate(2.0, 1.5, 2.0, 9), 0.5), Bar("none", None)))
    chart = Bars("bars", "seen", "Bars", "", (group,), "dB", top=2.0)
    made = page_of(replace(make_findings(samples=0), tables=(), curves=(), bars=(chart,)))
    widths = [float(one["width"] or 0) for one in made.of("rect") if one["class"] == "bar"]
    assert len(widths) == 2 and widths[0] * 2 == pytest.approx(widths[1])
    (drawn,) = [one for one in made.of("path") if one["class"] == "whisker"]
    low, high = re.findall(r"^M([\d.]+) \d+H([\d.]+)", drawn["d"] or "")[0]
    assert (float(high) - float(low)) * 4 == pytest.approx(widths[1])
    assert "half 1.00; all 2.00 (95 % 1.50–2.00), n 9, paper 0.50; none not measured" in made.text


def test_curve_goes_where_its_rates_are() -> None:
    line = Curve("a", np.array([0, 0, 0.5, 0.75, 1]), np.array([0, 0.5, 1, 1, 1]), 0.875)
    plot = Curves("roc", "seen", "ROC", "", (line,))
    made = page_of(replace(make_findings(samples=0), tables=(), bars=(), curves=(plot,)))
    drawn = next(one["d"] for one in made.of("path") if "line-0" in (one["class"] or ""))
    points = [tuple(map(float, one.split())) for one in (drawn or "")[1:].split("L")]
    (left, bottom), (right, top) = points[0], points[-1]
    rates = [((x - left) / (right - left), (y - bottom) / (top - bottom)) for x, y in points]
    assert np.allclose(rates, [(0, 0), (0, 0.5), (0.5, 1), (1, 1)], atol=0.002)
    assert "Area under the curve: a 0.875" in made.text


# --- Pictures ---------------------------------------------------------------------------------


def pictures(made: Page) -> dict[str, np.ndarray]:
    """Pixels of the page's pictures, by what their alternative text says after the colon."""
    found = {}
    for one in made.of("img"):
        content = base64.b64decode((one["src"] or "").split(",", 1)[1])
        shown = Image.open(io.BytesIO(content))
        name = (one["alt"] or "").split(": ")[1]
        found[name] = np.asarray(shown.convert("RGB") if shown.mode == "P" else shown)
    return found


def test_pictures_are_the_pixels_of_the_sample(findings: Findings, page: Page) -> None:
    sample, shown = findings.samples[0], pictures(page)
    assert np.array_equal(shown["original"], sample.original)
    assert np.array_equal(shown["protected"], sample.protected)
    assert np.array_equal(shown["recovered"], sample.recovered)
    assert np.array_equal(shown["δ, amplified 12 times"], sample.delta)
    assert np.array_equal(shown["what wdnet-slim made of it"], sample.removed[0].pixels)


def test_boxes_and_logo_lie_over_the_attention(findings: Findings, page: Page) -> None:
    sample = findings.samples[0]
    drawn = {
        one["class"]: tuple(int(one[name] or 0) for name in ("x", "y", "width", "height"))
        for one in page.of("rect")
        if one["class"] in ("box", "logo")
    }
    assert drawn == {"box": sample.boxes[0], "logo": sample.logo}


def test_attention_is_bright_where_it_is_high() -> None:
    sample = make_sample(np.random.default_rng(1), 1, 64, "glioma")
    dark = replace(sample, original=np.zeros((64, 64), np.uint8))
    shown = pictures(page_of(replace(make_findings(samples=0), samples=(dark,))))
    (attention,) = [pixels for name, pixels in shown.items() if name.startswith("attention")]
    assert dark.heat is not None
    peak = np.unravel_index(dark.heat.argmax(), dark.heat.shape)
    assert attention[peak].mean() > 150 and attention[0, 0].mean() < 5


def test_large_pictures_are_made_smaller() -> None:
    large = make_sample(np.random.default_rng(1), 1, 40, "glioma")
    wide = np.tile(np.arange(1100, dtype=np.uint8), (40, 1))
    sample = replace(large, original=wide, protected=wide, recovered=None, heat=None, delta=None)
    shown = pictures(page_of(replace(make_findings(samples=0), samples=(sample,))))
    assert shown["original"].shape == (19, 512)


def test_recovered_picture_that_differs_is_said_to(findings: Findings, page: Page) -> None:
    assert "recovered: every pixel as in the original" in page.text
    sample = findings.samples[0]
    other = sample.original.copy()
    other[0, 0] ^= 1
    made = page_of(replace(findings, samples=(replace(sample, recovered=other),)))
    assert "recovered: not the same as the original" in made.text


# --- JSON and CSV -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_json_is_what_its_schema_says(validator: Any, findings: Findings) -> None:
    for one in (findings, hostile_findings(), make_findings(samples=0, labels_from="predictions")):
        validator.validate(json.loads(json_bytes(one)))


def test_schema_notices_what_is_missing_or_too_much(validator: Any, findings: Findings) -> None:
    for broken in ("meta", "tables", "values"):
        facts = json.loads(json_bytes(findings))
        del facts[broken]
        assert not validator.is_valid(facts)
    facts = json.loads(json_bytes(findings))
    facts["meta"]["patient"] = "x"
    assert not validator.is_valid(facts)


def test_json_holds_the_figures(findings: Findings) -> None:
    facts = json.loads(json_bytes(findings))
    assert facts["values"]["unseen.accuracy"] == {
        **{"value": 0.56, "low": 0.48, "high": 0.64, "n": 150},
        "interval": "bootstrap",
    }
    assert facts["values"]["auc"] == 0.64
    removal = facts["tables"][2]["rows"]
    assert removal[0][2]["paper"] == 47.8
    assert removal[-1][2] == {"ours": None, "paper": None}  # infinite
    assert len(facts["curves"][0]["curves"][0]["true_positive_rate"]) == 302


def rows_of(findings: Findings, name: str) -> list[list[str]]:
    content = dict(csv_files(findings))[name]
    return list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))


def test_csv_spreads_a_figure_over_columns() -> None:
    made = with_table(
        ("a", Beside(Estimate(0.1 + 0.2, 0.25, 0.5, 25), 0.3182)),
        ("b", Beside(Estimate(0.5, 0.5, 0.5, 1, "none"), None)),
        ("c", 7),
        ("d, e", None),
    )
    assert rows_of(made, "one.csv") == [
        ["name", "figure", "figure_low", "figure_high", "figure_n", "figure_paper"],
        ["a", "0.30000000000000004", "0.25", "0.5", "25", "0.3182"],
        ["b", "0.5", "", "", "1", ""],
        ["c", "7", "", "", "", ""],
        ["d, e", "", "", "", "", ""],
    ]


def test_csv_of_plain_columns_stays_plain() -> None:
    assert rows_of(with_table(("a", 1.5)), "one.csv") == [["name", "figure"], ["a", "1.5"]]


def test_csv_has_no_formula() -> None:
    made = with_table(("=HYPERLINK(1)", -1.5), ("@x", 2), ("a=b", 3))
    assert [row[0] for row in rows_of(made, "one.csv")[1:]] == ["'=HYPERLINK(1)", "'@x", "a=b"]
    assert rows_of(made, "one.csv")[1][1] == "-1.5"


def test_csv_of_values(findings: Findings) -> None:
    rows = rows_of(findings, "values.csv")
    assert rows[0] == ["name", "value", "low", "high", "n"]
    assert ["unseen.accuracy", "0.56", "0.48", "0.64", "150"] in rows
    assert ["auc", "0.64", "", "", ""] in rows


# --- Writing ----------------------------------------------------------------------------------


def tree(folder: Path) -> set[str]:
    return {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()}


def test_everything_is_written_beside_the_page(tmp_path: Path, findings: Findings) -> None:
    written = write_report(findings, tmp_path / "new" / "out.html")
    assert tree(tmp_path / "new") == {
        "out.html",
        "out.json",
        *(f"out-csv/{one}.csv" for one in ("values", "seen", "unseen", "removal-psnr", "robust")),
    }
    assert {one.relative_to(tmp_path / "new").as_posix() for one in written} == tree(
        tmp_path / "new"
    )
    assert written[0].name == "out.html"


def test_tables_of_an_earlier_report_go_and_files_of_others_stay(tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    write_report(make_findings(samples=0), page)
    (tmp_path / "out-csv" / "mine.csv").write_text("x", encoding="utf-8")
    write_report(with_table(("a", 1)), page)
    assert tree(tmp_path / "out-csv") == {"values.csv", "one.csv", "mine.csv"}


def test_earlier_report_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "precious.csv").write_text("x", encoding="utf-8")
    facts = {"tables": [{"id": "../precious"}, {"id": 3}, {"id": "gone"}]}
    (tmp_path / "out.json").write_text(json.dumps(facts), encoding="utf-8")
    write_report(with_table(("a", 1)), tmp_path / "out.html")
    assert (tmp_path / "precious.csv").exists()


def test_report_that_cannot_be_written_leaves_the_old_page(tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    write_report(with_table(("a", 1)), page)
    before = page.read_bytes()
    (tmp_path / "out.json").unlink()
    (tmp_path / "out.json").mkdir()
    (tmp_path / "out.json" / "file").touch()
    with pytest.raises(UsageError, match=r"out\.html: the report cannot be written"):
        write_report(with_table(("b", 1)), page)
    assert page.read_bytes() == before
    assert not [one for one in tree(tmp_path) if PART_PREFIX in one]


def test_place_of_a_report(tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    check_place(page)
    write_report(with_table(("a", 1)), page)
    check_place(page, [tmp_path / "study"])


def test_place_that_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"out\.json: the report is a page"):
        check_place(tmp_path / "out.json")
    with pytest.raises(UsageError, match="lie in the input"):
        check_place(tmp_path / "study" / "out.html", [tmp_path / "study"])
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        check_place(tmp_path / "folder.html")
    (tmp_path / "mine.html").write_text("<!doctype html><title>mine</title>", encoding="utf-8")
    with pytest.raises(OutputExists, match="is no report"):
        check_place(tmp_path / "mine.html")
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    with pytest.raises(OutputExists, match=r"other\.json: is there"):
        check_place(tmp_path / "other.html")


# --- Findings that fit together ---------------------------------------------------------------


def test_table_with_a_cell_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 2 cells"):
        with_table(("a", 1, 2))


@pytest.mark.parametrize("name", ["values", "../x", "Seen", "", "a" * 65, "-a", "a-"])
def test_names_that_cannot_be_files_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        Table(name, "seen", "", "", (), ())


def test_two_parts_of_one_name_are_refused(findings: Findings) -> None:
    with pytest.raises(ValueError, match="'seen' is there twice"):
        replace(findings, tables=findings.tables[:1] * 2)


def test_pictures_that_do_not_fit_are_refused(findings: Findings) -> None:
    sample = findings.samples[0]
    with pytest.raises(ValueError, match="protected has another size"):
        replace(sample, protected=sample.protected[1:])
    with pytest.raises(ValueError, match="uint8"):
        replace(sample, original=sample.original / 255)
    with pytest.raises(ValueError, match="heat is"):
        replace(sample, heat=np.stack([sample.original] * 3, axis=-1))


def test_rates_outside_of_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Curve("a", np.array([0.0, 1.1]), np.array([0.0, 1.0]), 0.5)


def test_date_without_a_time_zone_is_refused() -> None:
    meta = make_meta()
    with pytest.raises(ValueError, match="time zone"):
        Meta(**{**vars(meta), "created": meta.created.replace(tzinfo=None)})


def test_protocols_come_in_the_order_of_their_parts(findings: Findings) -> None:
    assert findings.protocols == ("seen", "unseen", "removal", "robust")
    assert len(MODELS) == len(findings.tables[1].rows)
