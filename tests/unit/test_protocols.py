"""The protocols of the evaluation, from the folder of pictures to the findings, on tiny models."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import build_png
from laboratory import FAMILIES, NETWORKS, write_logo, write_models, write_pictures

from benchmarks import results
from miad_cli import evaluate as use_case
from miad_cli import shipped
from miad_cli.errors import NoRoomForLogo, NoUsableInput, UsageError
from miad_cli.evaluate import Outcome, Request, evaluate, plan
from miad_cli.evaluation.findings import Findings
from miad_cli.evaluation.gate import Gate
from miad_cli.evaluation.intervals import Estimate
from miad_cli.evaluation.ledger import FILE, Ledger
from miad_cli.evaluation.protocols import bench as bench_room
from miad_cli.evaluation.protocols import sweep, tally
from miad_cli.evaluation.protocols.bench import Bench
from miad_cli.evaluation.protocols.protocol import measure_all
from miad_cli.evaluation.protocols.registry import PROTOCOLS
from miad_cli.evaluation.protocols.robust import _halves
from miad_cli.evaluation.protocols.strength import Point, changed
from miad_cli.evaluation.protocols.treatments import OWN, Store
from miad_cli.evaluation.report import facts
from miad_cli.models import bank as bank_room
from miad_cli.models.session import Engine
from miad_cli.watermark import marking
from miad_cli.watermark.delta import allowed_cells

CHEAP = {"search": {"effort": "fast", "density": 0.0003, "parents": 2, "generations": 1}}
"""A handful of candidates for the paper's searches."""

MODELS = [f"{family}-net" for family in FAMILIES]

MARKS = 6
"""Of one picture for `unseen`: each model attacked alone, beta once more where alpha has no say in
where the logo goes; each alone with the paper's search; and all attacked together, for the sample
pictures."""


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("laboratory")
    write_models(root / "models")
    write_pictures(root / "data", of_each=2)
    write_logo(root / "logo.png")
    return root


@pytest.fixture(autouse=True)
def _tiny_models(laboratory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_room, "models_directory", lambda: laboratory / "models")
    monkeypatch.setattr(sweep, "PARAMETERS", (sweep._Parameter("n_g", "N_g, generations", (1, 2)),))
    monkeypatch.setattr(tally, "AUC_RESAMPLES", 20)


@pytest.fixture
def request_of(laboratory: Path) -> Any:
    def make(*protocols: str, **other: Any) -> Request:
        settings = {"task": "toy", "limit": 2, "overrides": CHEAP, **other}
        given = settings.pop("given", laboratory / "data")
        return Request(given, laboratory / "logo.png", protocols, **settings)

    return make


@pytest.fixture(scope="module")
def without_gradients(laboratory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same models for queries only, so that nothing takes torch."""
    root = tmp_path_factory.mktemp("queries") / "models"
    shutil.copytree(laboratory / "models", root)
    for name in MODELS:
        manifest = root / name / "manifest.toml"
        text = manifest.read_text(encoding="utf-8")
        manifest.write_text(f'query_only = "a test"\n{text}', encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def whole(laboratory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Everything that can be measured, and the folder in which it is kept."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank_room, "models_directory", lambda: laboratory / "models")
        patch.setattr(tally, "AUC_RESAMPLES", 20)
        patch.setattr(sweep, "PARAMETERS", (sweep._Parameter("n_g", "N_g, generations", (1, 2)),))
        request = Request(
            laboratory / "data", laboratory / "logo.png", ("all",), task="toy", limit=2,
            overrides=CHEAP, work=work,
        )  # fmt: skip
        return work, evaluate(request)


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each model is run from here on, and how often a mark is searched for."""
    count: Counter[str] = Counter()
    run, mark = Engine.run_fed, bench_room.mark_picture

    def counted(self: Engine, *arguments: Any) -> Any:
        count[self.name] += 1
        return run(self, *arguments)

    def marked(image: Any, bank: Any, *others: Any) -> Any:
        count["marks"] += 1
        return mark(image, bank, *others)

    monkeypatch.setattr(Engine, "run_fed", counted)
    monkeypatch.setattr(bench_room, "mark_picture", marked)
    return count


def plain(findings: Findings) -> dict[str, Any]:
    """Findings but for the time at which they were made."""
    found = facts(findings)
    del found["meta"]["created"], found["meta"]["seconds"], found["meta"]["settings"]
    return found


def accuracy(outcome: Outcome, name: str) -> Estimate:
    found = outcome.findings.values[name]
    assert isinstance(found, Estimate)
    return found


# --- Every protocol ---------------------------------------------------------------------------


def test_every_figure_that_a_gate_may_name_is_measured(
    whole: tuple[Path, Outcome], request_of: Any
) -> None:
    figures, measured = set(plan(request_of("all")).figures), set(whole[1].findings.values)
    assert {one.split(".")[0] for one in figures} == set(PROTOCOLS)
    assert measured <= figures
    # Nobody can learn from one picture of a class, and no lesion is annotated.
    assert {one for one in figures - measured if not one.startswith("lesions.")} == {
        "robust.adaptive.accuracy", "robust.adaptive.clean.accuracy",
    }  # fmt: skip


def test_all_protocols_show_something_and_nothing_was_left_out(
    whole: tuple[Path, Outcome],
) -> None:
    _, outcome = whole
    assert outcome.findings.protocols == tuple(PROTOCOLS)
    assert (outcome.left_out, outcome.failed, outcome.violations) == ((), 0, ())


def test_summary_says_the_main_figures(whole: tuple[Path, Outcome]) -> None:
    _, outcome = whole
    share = accuracy(outcome, "unseen.accuracy").value
    said = f"{100 * share:.0f} of 100 diagnoses still stand"
    assert any("no part in the search" in one and said in one
               for one in outcome.findings.summary.sentences)  # fmt: skip


def test_sample_is_restored_and_says_what_each_model_says(whole: tuple[Path, Outcome]) -> None:
    samples = whole[1].findings.samples
    assert len(samples) == 2
    for sample in samples:
        assert sample.recovered is not None
        np.testing.assert_array_equal(sample.recovered, sample.original)
        assert not np.array_equal(sample.protected, sample.original)
        assert [one.name for one in sample.removed] == list(NETWORKS)
        assert [name for name, _ in sample.facts[:2]] == MODELS
        assert sample.delta is not None
        assert sample.heat is not None


def test_quality_holds_the_bound_of_delta_and_looks_like_the_original(
    whole: tuple[Path, Outcome],
) -> None:
    _, outcome = whole
    table = next(one for one in outcome.findings.tables if one.identifier == "seen-quality")
    rows = [dict(zip((one.key for one in table.columns), row, strict=True)) for row in table.rows]
    by_name = {row["protected"]: row for row in rows}
    assert by_name["guided"]["delta"] == 0
    assert 0 < by_name["guided + δ"]["delta"] <= 8
    assert by_name["guided"]["outside"].value == pytest.approx(1.0)
    assert 0.5 < by_name["guided + δ"]["outside"].value < 1.0


# --- Figures that are known otherwise ---------------------------------------------------------


class Set:
    """A bench by hand, without a use case."""

    def __init__(self, request: Request, folder: Path) -> None:
        self.run = use_case._Run(request)
        self.folder = folder

    def __enter__(self) -> Bench:
        self.ledger = Ledger(self.folder, self.run.digest).__enter__()
        subjects, _ = self.run._subjects(self.ledger)
        return Bench(self.run.material, subjects, Store(self.folder), self.ledger)

    def __exit__(self, *error: Any) -> None:
        self.ledger.__exit__(*error)


def test_seen_is_what_marking_by_hand_gives(
    request_of: Any, whole: tuple[Path, Outcome], tmp_path: Path
) -> None:
    with Set(request_of("seen"), tmp_path) as bench:
        material = bench.material
        settings = replace(material.settings, method="random", perturbing=None)
        stands = []
        for model in MODELS:
            bank = replace(material.bank, surrogates=(material.models[model],))
            for subject in bench.subjects:
                generator = np.random.default_rng([2023, int(subject.digest[:16], 16)])
                made = marking.mark_picture(
                    bench.image(subject), bank, material.logos[OWN], settings, generator,
                    subject.label,
                )  # fmt: skip
                stands.append(not made.fooled)
    found = accuracy(whole[1], "seen.random.accuracy")
    assert (found.value, found.n) == (pytest.approx(np.mean(stands)), 2)


def test_held_out_family_has_no_part_in_the_attack(request_of: Any, tmp_path: Path) -> None:
    with Set(request_of("unseen"), tmp_path) as bench:
        for family in FAMILIES:
            treatment = bench.material.without(family)
            bank = bench.material.bank_for(treatment)
            names = [one.manifest.name for one in (*bank.surrogates, bank.attention)]
            assert f"{family}-net" not in names
            assert len(bank.surrogates) == 1


def test_removal_network_that_gives_pictures_back_changes_no_diagnosis(
    request_of: Any, whole: tuple[Path, Outcome]
) -> None:
    """`copier` returns what it got: what stood before it stands after it, up to its own size."""
    values = whole[1].findings.values
    assert values["removal.copier.accuracy"].value == pytest.approx(
        values["removal.before-removal.accuracy"].value, abs=0.12
    )
    # `darkener` halves the brightness, which is what these models go by.
    assert values["removal.darkener.rmse"].value > values["removal.copier.rmse"].value + 20


def test_noise_is_within_the_bound_and_off_the_boxes(request_of: Any, tmp_path: Path) -> None:
    with Set(request_of("removal"), tmp_path) as bench:
        (protocol,) = (PROTOCOLS["removal"](bench.material),)
        kinds = protocol.kinds  # type: ignore[attr-defined]
        subject = bench.subjects[0]
        noisy = bench.protected(subject, kinds["noise"].treatment)
        plain_one = bench.protected(subject, kinds["he-sit"].treatment)
        assert noisy.decision.delta is not None
        grid = noisy.decision.delta.grid
        image = bench.image(subject)
        allowed = allowed_cells(noisy.decision.lesions.boxes, image.rows, image.columns)
        assert np.abs(grid).max() == 8
        assert not grid[~allowed].any()
        assert (noisy.decision.mark.x, noisy.decision.mark.alpha) == (
            plain_one.decision.mark.x, plain_one.decision.mark.alpha,
        )  # fmt: skip
        for name in ("disrupt", "inerasable"):
            weights = kinds[name].treatment.settings.perturbing.attack.weights
            assert weights.classifiers == 0
            assert {weights.disrupt, weights.inerase} == {0, 1}


def test_files_come_back_byte_for_byte(whole: tuple[Path, Outcome]) -> None:
    values = whole[1].findings.values
    assert values["authorise.identical"].value == 1.0
    assert values["authorise.recovered.ssim"].value == 1.0
    assert values["authorise.recovered.accuracy"].value == 1.0
    assert values["authorise.protected.ssim"].value < values["authorise.unblended.ssim"].value < 1


def test_annotated_lesions_are_measured_against_logo_and_delta(
    request_of: Any, tmp_path: Path
) -> None:
    """The box of the whole picture: its covered share is the logo's share of the picture."""
    data = write_pictures(tmp_path / "data", of_each=1)
    with (data / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "box"])
        table.writerow(["no/0.png", "no", "0.5 0.5 1 1"])
    with Set(request_of("seen", given=data), tmp_path / "work") as bench:
        (subject,) = bench.subjects
        made = bench.protected(subject, bench.material.everyone())
        quality = bench.quality(subject, bench.material.everyone())
        visible = (made.decision.mark.logo[..., 3] > 0).sum()
        assert quality["under_logo"] == pytest.approx(visible / 24**2)
        changed = made.beneath != bench.original(subject)
        assert quality["under_delta"] == pytest.approx(changed.mean())
        assert quality["lesion"] == pytest.approx(quality["ssim"])


def test_annotated_lesion_is_kept_clear_where_it_is_the_mask(
    request_of: Any, without_gradients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bright spot is annotated on one picture of two; the other one is not counted."""
    data = write_pictures(tmp_path / "data", of_each=1)
    with (data / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "box"])
        table.writerow(["no/0.png", "no", "0.65 0.69 0.21 0.21"])
        table.writerow(["yes/0.png", "yes", ""])
    monkeypatch.setattr(bank_room, "models_directory", lambda: without_gradients)
    bare = {**CHEAP, "perturbation": {"epsilon": 0}}
    with Set(request_of("lesions", given=data, overrides=bare), tmp_path / "work") as bench:
        protocol = PROTOCOLS["lesions"](bench.material)
        values = protocol.section(bench).values
    assert {name.split(".")[1] for name in values} == {"occlusion", "mask"}
    mask = values["lesions.mask.under-logo"]
    assert isinstance(mask, Estimate)
    assert (mask.value, mask.n) == (0.0, 1)
    assert values["lesions.mask.under-delta"] == values["lesions.occlusion.under-delta"]


def test_default_strength_is_what_protect_does(request_of: Any) -> None:
    large = {**CHEAP, "logo": {"scale": 2}}  # as the profiles of known tasks have it
    material = use_case._Run(request_of("strength", overrides=large)).material
    settings = material.settings
    assert changed(settings, Point(2, 8)) == settings
    flat = changed(settings, Point(4, 12, shaped=False))
    assert flat.perturbing is not None
    assert (flat.divisors[0], flat.perturbing.attack.epsilon) == (4, 12.0)
    assert not flat.perturbing.attack.shaped
    assert changed(settings, Point(4, 0)).perturbing is None


def test_delta_of_the_paper_comes_before_its_search(request_of: Any) -> None:
    material = use_case._Run(request_of("removal")).material
    kinds = PROTOCOLS["removal"](material).kinds  # type: ignore[attr-defined]
    printed = kinds["disrupt"].treatment.settings
    made = printed.perturbing
    assert (printed.method, made.before, made.around) == ("he-sit", 50, 0)
    assert (made.attack.epsilon, made.attack.step_size, made.attack.shaped) == (8, 2, False)
    assert kinds["against-others-copier"].treatment.removers == ("darkener",)
    assert made.attack.coarse is False  # in float32, as theirs
    assert kinds["disrupt-after"].treatment.settings.perturbing.before == 0


def test_page_of_results_has_every_figure_that_was_measured(
    whole: tuple[Path, Outcome],
) -> None:
    outcome = whole[1]
    lines = list(results.markdown("toy", outcome))
    shown = next(line for line in lines if line.startswith("| HE-SIT, seen |"))
    he_sit = accuracy(outcome, "seen.he-sit.accuracy")
    assert f"{he_sit.value:.2f} ({he_sit.low:.2f}–{he_sit.high:.2f}) | 2 | 0.32 |" in shown
    (missing,) = [line for line in lines if line.startswith("**Not measured:**")]
    # Nothing is annotated.
    assert "mask: lesion under the logo" in missing
    assert "HE-SIT, seen" not in missing
    assert "logos" not in missing
    for name in ("he-sit", "disrupt"):
        found = accuracy(outcome, f"removal.{name}.ssim").value
        assert any(f"| {found:.3f}" in line for line in lines if "removal's output" in line)


def test_data_sets_stand_side_by_side(whole: tuple[Path, Outcome]) -> None:
    outcome = whole[1]
    lines = list(results.overview({"toy": outcome, "brain_mri": outcome}))
    assert "| toy (2) | Brain MRI (2) |" in lines[2]
    found = accuracy(outcome, "unseen.accuracy")
    cell = f"{found.value:.2f} ({found.low:.2f}–{found.high:.2f})"
    assert f"| one family left out, mean | {cell} | {cell} | ≤ 0.30 |" in lines
    assert not any(f"{MODELS[0]} attacked alone" in line for line in lines)


def test_manifest_without_a_class_names_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    manifest = tmp_path / "data" / "manifest.csv"
    manifest.write_text("path,label,mask\na/1.png,yes,m/1.png\nb/2.png,no,\n", encoding="utf-8")
    assert results.manifest_without((), manifest, tmp_path) == manifest
    made = results.manifest_without(("no",), manifest, tmp_path)
    with made.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert Path(row["path"]) == tmp_path / "data" / "a" / "1.png"
    assert Path(row["mask"]) == tmp_path / "data" / "m" / "1.png"


def test_infringer_learns_from_other_patients_of_every_class() -> None:
    groups = ["a", "b", "a", "c", "d", "e", "f"]
    labels = np.array([0, 0, 0, 1, 1, 2, 0])
    halves = _halves(groups, labels)
    assert halves[0] == halves[2]  # one patient
    assert {half for half, label in zip(halves, labels, strict=True) if label == 0} == {0, 1}
    assert {half for half, label in zip(halves, labels, strict=True) if label == 1} == {0, 1}


def test_n_is_the_number_of_pictures_not_of_answers(whole: tuple[Path, Outcome]) -> None:
    for name in ("seen.accuracy", "unseen.auc", "removal.accuracy", "robust.blur.accuracy"):
        assert accuracy(whole[1], name).n == 2


# --- Going on ---------------------------------------------------------------------------------


def test_resumed_run_finds_the_same_and_asks_no_model(
    whole: tuple[Path, Outcome], request_of: Any, questions: Counter[str]
) -> None:
    work, first = whole
    again = evaluate(request_of("all", work=work))
    assert questions == Counter()
    assert plain(again.findings) == plain(first.findings)
    for one, other in zip(again.findings.samples, first.findings.samples, strict=True):
        np.testing.assert_array_equal(one.protected, other.protected)
        np.testing.assert_array_equal(one.heat, other.heat)


def test_larger_sample_measures_only_what_is_new(
    whole: tuple[Path, Outcome], request_of: Any, questions: Counter[str], tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path / "work")
    evaluate(request_of("unseen", work=tmp_path / "work", limit=3))
    assert questions["marks"] == MARKS


def test_marks_are_shared_between_protocols(
    request_of: Any, questions: Counter[str], tmp_path: Path
) -> None:
    request = request_of("unseen", "authorise", work=tmp_path, limit=1)
    evaluate(request)
    assert questions["marks"] == MARKS


def test_broken_mark_is_found_again(
    whole: tuple[Path, Outcome], request_of: Any, questions: Counter[str], tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path / "work")
    (tmp_path / "work" / FILE).unlink()
    marks = sorted((tmp_path / "work" / "marks").glob("*.npz"))
    for mark in marks:
        mark.write_bytes(mark.read_bytes()[:40])
    again = evaluate(request_of("authorise", work=tmp_path / "work"))
    assert questions["marks"] == 2
    assert accuracy(again, "authorise.protected.ssim") == accuracy(
        whole[1], "authorise.protected.ssim"
    )


def test_progress_counts_the_planned_units(request_of: Any) -> None:
    totals: list[int] = []
    evaluate(request_of("authorise", "unseen", limit=1), totals.append)
    assert totals == [1 + 3 * len(FAMILIES)] * (1 + 3 * len(FAMILIES))


# --- Several processes ------------------------------------------------------------------------


def without_seconds(findings: Findings) -> dict[str, Any]:
    """What two runs have in common: searches take another time each."""
    found = plain(findings)
    for table in found["tables"]:
        keys = [column["key"] for column in table["columns"]]
        for row in table["rows"]:
            row[:] = [cell for key, cell in zip(keys, row, strict=True) if key != "seconds"]
    return found


def test_figures_do_not_depend_on_the_number_of_processes(
    request_of: Any, without_gradients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes know nothing of what was patched here, so the models are named."""
    monkeypatch.setattr(bank_room, "models_directory", shipped.models_directory)
    names = tuple(str(without_gradients / name) for name in MODELS)
    settings = {**CHEAP, "models": {"names": names}, "perturbation": {"epsilon": 0}}
    runs = [
        evaluate(request_of("unseen", "sweep", work=tmp_path / f"{jobs}", overrides=settings,
                            jobs=jobs, limit=3))
        for jobs in (1, 2)
    ]  # fmt: skip
    one, two = (without_seconds(run.findings) for run in runs)
    assert one == two
    lines = [(tmp_path / name / FILE).read_text().splitlines() for name in ("1", "2")]
    keys = [[json.loads(line)["key"] for line in each] for each in lines]
    assert keys[0] == keys[1]

    totals: list[int] = []
    kept = (tmp_path / "2" / FILE).read_bytes()
    evaluate(request_of("unseen", "sweep", work=tmp_path / "2", overrides=settings, jobs=2,
                        limit=3), totals.append)  # fmt: skip
    assert (tmp_path / "2" / FILE).read_bytes() == kept
    assert len(totals) == totals[0]


# --- Pictures that take part ------------------------------------------------------------------


def test_only_pictures_that_all_models_know_take_part(request_of: Any, tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", of_each=1)
    shutil.copy(data / "yes" / "0.png", data / "no" / "wrong.png")
    outcome = evaluate(request_of("authorise", given=data))
    assert outcome.findings.meta.data.used == 2
    assert outcome.findings.meta.data.pictures == 3
    (data / "yes" / "0.png").unlink()
    (data / "no" / "0.png").unlink()
    (data / "yes" / "wrong.png").write_bytes(build_png(np.zeros((24, 24, 1), np.uint8)))
    with pytest.raises(NoUsableInput, match="none of 2 pictures is classified right"):
        evaluate(request_of("authorise", given=data))


def test_without_labels_the_models_own_word_counts(request_of: Any, laboratory: Path) -> None:
    outcome = evaluate(request_of("authorise", labels="none"))
    meta, sentences = outcome.findings.meta, outcome.findings.summary.sentences
    assert meta.data.labels_from == "predictions"
    assert not any("classify right" in one for one in sentences)
    assert accuracy(outcome, "authorise.original.accuracy").n == 2
    assert [one.caption for one in outcome.findings.samples] == ["Picture 1", "Picture 2"]


def test_unlabelled_reference_is_each_models_own(request_of: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    between = np.full((24, 24, 1), 127, np.uint8)  # 0.50: above the first threshold only
    (data / "one.png").write_bytes(build_png(between))
    with Set(request_of("unseen", given=data), tmp_path / "work") as bench:
        (subject,) = bench.subjects
        assert subject.references == {"alpha-net": 1, "beta-net": 0}
        assert subject.label is None


def test_picture_without_room_for_the_logo_is_counted_and_left_out(
    request_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = bench_room.mark_picture
    refused: list[int] = []

    def mark_most(image: Any, *others: Any) -> Any:
        if image.stored.mean() > 130:
            refused.append(1)
            raise NoRoomForLogo("no room")
        return mark(image, *others)

    monkeypatch.setattr(bench_room, "mark_picture", mark_most)
    outcome = evaluate(request_of("authorise"))
    assert refused
    assert accuracy(outcome, "authorise.protected.accuracy").n == 1
    assert any("1 of 2 pictures could not be protected" in one
               for one in outcome.findings.summary.sentences)  # fmt: skip


# --- Refusals ---------------------------------------------------------------------------------


def test_removal_without_networks_is_refused_alone_and_left_out_of_all(
    request_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_models(tmp_path / "models", {})
    monkeypatch.setattr(bank_room, "models_directory", lambda: root)
    with pytest.raises(UsageError, match="removal cannot be measured: no removal network"):
        evaluate(request_of("removal"))
    planned = plan(request_of("all"))
    assert "removal" not in planned.protocols
    assert dict(planned.left_out) == {"removal": "no removal network is installed"}
    assert not any(one.startswith("robust.removal") for one in planned.figures)


def test_one_family_cannot_be_left_out(request_of: Any) -> None:
    only = {**CHEAP, "models": {"names": ("alpha-net",)}}
    with pytest.raises(UsageError, match="two families"):
        evaluate(request_of("unseen", overrides=only))


def test_unknown_protocol_and_unknown_task_name_what_there_is(request_of: Any) -> None:
    with pytest.raises(UsageError, match="no protocol sene"):
        evaluate(request_of("sene"))
    with pytest.raises(Exception, match="no installed model answers the task nonsense") as error:
        evaluate(request_of("seen", task="nonsense"))
    assert "toy" in error.value.hint  # type: ignore[attr-defined]


def test_task_is_found_by_the_classes(request_of: Any) -> None:
    assert plan(request_of("authorise", task=None)).pictures == 2


def test_gate_is_refused_before_anything_is_measured(
    request_of: Any, questions: Counter[str], tmp_path: Path
) -> None:
    for text, what in (
        ("unsen.accuracy > 0.4", "no figure unsen"),
        ("removal.accuracy > 0.4", "--protocol removal"),
    ):
        with pytest.raises(UsageError) as error:
            evaluate(request_of("unseen", gates=(Gate.parse(text),), work=tmp_path / "work"))
        assert what in error.value.message + error.value.hint
    assert questions["marks"] == 0
    assert not (tmp_path / "work").exists()


def test_violated_gate_says_what_was_measured(whole: tuple[Path, Outcome], request_of: Any) -> None:
    gates = (Gate.parse("authorise.identical < 1"), Gate.parse("seen.ssim > 0.1"))
    outcome = evaluate(request_of("seen", "authorise", work=whole[0], gates=gates))
    (violation,) = outcome.violations
    assert violation.gate == "seen.ssim > 0.1"
    assert violation.sentence.startswith("seen.ssim is 0.")


def test_plan_measures_and_writes_nothing(
    request_of: Any, questions: Counter[str], tmp_path: Path
) -> None:
    planned = plan(request_of("all", limit=100, work=tmp_path / "work"))
    assert planned.pictures == 4
    assert planned.units > 100
    assert planned.seconds > 0
    assert questions["marks"] == 0
    assert not (tmp_path / "work").exists()


def test_plan_knows_what_an_earlier_run_left(whole: tuple[Path, Outcome], request_of: Any) -> None:
    assert plan(request_of("all", work=whole[0])).done > 100
    assert plan(request_of("all", work=whole[0], seed=1)).done == 0


def test_report_names_no_file_of_the_input(whole: tuple[Path, Outcome], laboratory: Path) -> None:
    work, outcome = whole
    text = json.dumps(facts(outcome.findings)) + (work / FILE).read_text()
    assert str(laboratory) not in text
    assert ".png" not in text


def test_units_that_fail_later_name_the_picture_of_the_run(request_of: Any, tmp_path: Path) -> None:
    """A file that is gone when its turn comes ends the run with a number, not with a name."""
    data = write_pictures(tmp_path / "data", of_each=1)
    with Set(request_of("unseen", given=data), tmp_path / "work") as bench:
        shutil.rmtree(data)
        protocol = PROTOCOLS["unseen"](bench.material)
        with pytest.raises(Exception, match="picture 1 of the run") as error:
            measure_all([protocol], bench, lambda: None)
        assert type(error.value).__name__ == "PictureFailed"


def test_without_baselines_ours_is_measured_alone_and_comes_out_the_same(request_of: Any) -> None:
    asked = ("seen", "unseen", "removal")
    both = evaluate(request_of(*asked)).findings.values
    short = request_of(*asked, baselines=False)
    alone, planned = evaluate(short).findings.values, plan(short)
    ours = [
        name for name in both if not {"he", "he-sit", "random", "guided"} & set(name.split("."))
    ]
    missing = {one.split(".")[1] for one in ours if one not in alone}
    assert missing == {"before", "after", "noise", "disrupt", "inerasable", "disrupt-after",
                       "inerasable-after"}  # fmt: skip
    assert {name: both[name] for name in alone} == alone
    assert {"seen.accuracy", "unseen.accuracy", "removal.held-out.accuracy"} <= set(alone)
    assert set(planned.figures) == set(alone)
    assert 2 * planned.units < plan(request_of(*asked)).units
