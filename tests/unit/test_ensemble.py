"""The bank's opinion of a picture with a logo is its opinion of the pixels to be written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import noisy_logo, opaque_logo, write_convolutional_model, write_flat_model

from miad_cli.errors import ModelUnusable, UsageError
from miad_cli.imaging.image import MedicalImage, Window
from miad_cli.models import bank as bank_room
from miad_cli.models.bank import Bank, load_bank
from miad_cli.models.places import user_models_directory
from miad_cli.models.session import Device
from miad_cli.watermark.blend import Mark, blend
from miad_cli.watermark.delta import Delta, add
from miad_cli.watermark.ensemble import (
    BATCH,
    Ensemble,
    Opinion,
    feature_distance,
)

CPU = Device()


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models of the task toy, of which only `looking` has a tensor for Grad-CAM."""
    write_flat_model(tmp_path / "flat", layout="NCHW", channels=3, kind="logits")
    write_convolutional_model(tmp_path / "looking")
    monkeypatch.setattr(bank_room, "models_directory", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def bank(models: Path) -> Bank:
    return load_bank("toy", (), None, CPU)


def image_of(seed: int = 0, frames: int = 1) -> MedicalImage:
    stored = np.random.default_rng(seed).integers(0, 4096, (frames, 40, 50, 1), np.int32)
    return MedicalImage(stored, (0, 4095), Window(200, 3000))


@pytest.mark.parametrize("inverted", [False, True])
def test_opinion_of_a_candidate_is_that_of_the_blended_picture(bank: Bank, inverted: bool) -> None:
    plain = image_of()
    image = MedicalImage(plain.stored, plain.bounds, plain.window, inverted, padding=(0, 500))
    ensemble = Ensemble(bank, image)
    mark = Mark(13, 7, 180, noisy_logo(20, 18))
    written = blend(image.stored, mark, ensemble.tone)
    quick, whole = ensemble.opinion_with(mark), ensemble.opinion_of(written[0])
    np.testing.assert_allclose(quick.probabilities, whole.probabilities, atol=1e-5)
    np.testing.assert_allclose(quick.features, whole.features, atol=1e-5)
    assert np.abs(np.array(whole.probabilities) - ensemble.clean.probabilities).max() > 1e-3


def some_marks(count: int) -> list[Mark]:
    generator = np.random.default_rng(8)
    logos = [noisy_logo(9, 14), noisy_logo(20, 11)]
    return [
        Mark(*(int(n) for n in generator.integers(0, (37, 21))), 60 + 9 * n, logos[n % 2])
        for n in range(count)
    ]


@pytest.mark.parametrize("batch", [None, 3])
def test_many_are_asked_together_and_answered_as_one_by_one(
    models: Path, batch: int | None
) -> None:
    """More than one batch of them; a graph of fixed batch is filled up."""
    if batch is not None:
        path = models / "flat" / "manifest.toml"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("channels = 3", f"channels = 3\nbatch = {batch}"))
    bank = load_bank("toy", (), None, CPU)
    ensemble, marks = Ensemble(bank, image_of()), some_marks(2 * BATCH + 3)
    together = ensemble.opinions_with(marks)
    for mark, opinion in zip(marks, together, strict=True):
        alone = ensemble.opinion_with(mark)
        np.testing.assert_allclose(opinion.probabilities, alone.probabilities, atol=1e-6)
        np.testing.assert_allclose(opinion.features, alone.features, atol=1e-6)
    fitness = [one.fitness for one in ensemble.score_many(marks, 1)]
    assert fitness == pytest.approx([ensemble.score(mark, 1).fitness for mark in marks])
    assert np.std(fitness) > 1e-4
    assert ensemble.opinions_with([]) == []


def test_a_model_is_asked_about_a_batch_at_a_time(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    session = bank.surrogates[0].session
    run = session.run
    ensemble = Ensemble(bank, image_of())
    monkeypatch.setattr(session, "run", lambda views: asked.append(len(views)) or run(views))
    ensemble.opinions_with(some_marks(2 * BATCH + 3))
    assert asked == [BATCH, BATCH, 3]


def test_models_that_look_alike_share_a_view(models: Path) -> None:
    write_flat_model(models / "padded", layout="NCHW", channels=3, kind="logits", extra='fit="pad"')
    bank = load_bank("toy", (), None, CPU)
    names = [one.manifest.name for one in bank.surrogates]
    assert names == ["flat", "looking", "padded"]
    flat, looking, padded = Ensemble(bank, image_of()).views_with(some_marks(2))
    assert flat is looking
    assert np.abs(flat - padded).max() > 0.1


def test_disturbance_happens_to_what_the_models_see(bank: Bank) -> None:
    ensemble = Ensemble(bank, image_of())
    (upside_down,) = ensemble.opinions_with(some_marks(1), lambda views: views[:, :, ::-1])
    views = ensemble.views_with(some_marks(1))
    answers = bank.surrogates[0].session.run(views[0][:, :, ::-1])
    expected = bank.surrogates[0].session.probabilities(answers, "toy")[0]
    np.testing.assert_allclose(upside_down.probabilities[0], expected, atol=1e-6)
    assert abs(upside_down.probabilities[0] - ensemble.clean.probabilities[0]).max() > 1e-4


def test_delta_lies_under_the_mark(bank: Bank) -> None:
    plain = Ensemble(bank, image_of())
    delta = Delta(np.full((40, 50, 1), 8, np.int8))
    (mark,) = some_marks(1)
    written = blend(add(plain.image.stored, delta, plain.tone), mark, plain.tone)
    quick, whole = plain.over(delta).opinion_with(mark), plain.opinion_of(written[0])
    np.testing.assert_allclose(quick.probabilities, whole.probabilities, atol=1e-5)
    assert np.abs(np.array(quick.features) - plain.opinion_with(mark).features).max() > 1e-3
    assert plain.over(delta).clean is plain.clean


def test_margin_is_the_lead_over_the_best_other_class() -> None:
    logits = np.array([2.0, -1.0, 1.5])
    chances = np.exp(logits) / np.exp(logits).sum()
    opinion = Opinion((chances.astype(np.float32), np.array([0.0, 1.0, 0.0], np.float32)), ())
    np.testing.assert_allclose(opinion.margins(0)[0], 0.5, atol=1e-6)
    np.testing.assert_allclose(opinion.margins(1)[0], -3, atol=1e-6)
    assert np.isfinite(opinion.margins(0)[1])
    assert opinion.margins(0)[1] < -50 < 50 < opinion.margins(1)[1]


def test_several_frames_are_judged_by_the_middle_one(bank: Bank) -> None:
    many = image_of(frames=3)
    alone = MedicalImage(many.stored[1:2], many.bounds, many.window)
    np.testing.assert_array_equal(
        Ensemble(bank, many).clean.probabilities, Ensemble(bank, alone).clean.probabilities
    )


def test_ensemble_is_the_mean_of_its_models() -> None:
    opinion = Opinion((np.array([0.9, 0.1]), np.array([0.2, 0.8])), ())
    np.testing.assert_allclose(opinion.ensemble, [0.55, 0.45])
    assert opinion.label == 0


def test_score_is_the_confidence_in_the_label(bank: Bank) -> None:
    ensemble = Ensemble(bank, image_of())
    mark = Mark(0, 0, 255, opaque_logo(40, 50, (255, 255, 255)))
    opinion = ensemble.opinion_with(mark)
    for label in (0, 1):
        score = ensemble.score(mark, label)
        assert score.fitness == pytest.approx(float(opinion.ensemble[label]))
        assert score.fooled == (opinion.label != label)
    assert ensemble.score(mark).fitness == ensemble.score(mark, ensemble.clean.label).fitness


def test_feature_distance_is_relative_and_averaged() -> None:
    one = Opinion((), (np.array([3.0, 4.0]), np.array([0.0, 2.0])))
    other = Opinion((), (np.array([3.0, 9.0]), np.array([0.0, 2.0])))
    assert feature_distance(one, other) == pytest.approx(0.5)


def test_attention_lies_where_the_label_comes_from(models: Path) -> None:
    """Logit 1 gains most from green (kernel 1, weight 3): the green corner is the lesion."""
    stored = np.zeros((1, 32, 32, 3), np.int32)
    stored[0, 20:28, 4:12, 1] = 255
    bank = load_bank("toy", (), None, CPU)
    ensemble = Ensemble(bank, MedicalImage(stored, (0, 255), Window(0, 255)))
    assert ensemble.clean.label == 1
    attention = ensemble.attention(threshold=128, top_share=1.0)
    assert attention.heat.shape == (32, 32)
    (box,) = attention.boxes
    assert abs(box.x - 4) <= 3
    assert abs(box.y - 20) <= 3
    assert abs(box.width - 8) <= 5
    assert abs(box.height - 8) <= 5


def test_study_of_no_known_task_is_judged_by_features(models: Path) -> None:
    bank = load_bank("unheard-of", (), None, CPU)
    assert bank.task is None
    assert [one.manifest.name for one in bank.surrogates] == ["looking"]
    ensemble = Ensemble(bank, image_of())
    mark = Mark(0, 0, 255, opaque_logo(40, 50))
    score = ensemble.score(mark)
    distance = feature_distance(ensemble.clean, ensemble.opinion_with(mark))
    assert score.fitness == pytest.approx(-distance)
    assert score.fitness < 0
    assert not score.fooled


def test_names_restrict_the_bank(models: Path) -> None:
    assert len(load_bank("toy", (), None, CPU).surrogates) == 2
    assert [one.manifest.name for one in load_bank("toy", ["looking"], None, CPU).surrogates] == [
        "looking"
    ]


def test_unknown_name_is_refused(models: Path) -> None:
    with pytest.raises(UsageError, match="no model is called deep"):
        load_bank("toy", ["deep"], None, CPU)


def test_named_model_looks_where_it_can(models: Path) -> None:
    write_convolutional_model(models / "looking-too")
    for wanted, used in (("looking-too", "looking-too"), ("flat", "looking"), (None, "looking")):
        assert load_bank("toy", (), wanted, CPU).attention.manifest.name == used


def test_another_model_looks_where_the_chosen_ones_cannot(models: Path) -> None:
    bank = load_bank("toy", ["flat"], None, CPU)
    assert [one.manifest.name for one in bank.surrogates] == ["flat"]
    assert bank.attention.manifest.name == "looking"
    heat = Ensemble(bank, image_of()).attention(threshold=1, top_share=1.0).heat
    assert heat.shape == (40, 50)


def test_where_no_model_has_a_tensor_to_look_at_parts_are_covered(models: Path) -> None:
    (models / "looking" / "manifest.toml").unlink()
    bank = load_bank("toy", (), None, CPU)
    assert bank.attention.manifest.name == "flat"
    assert bank.attention_by == "occlusion"
    attention = Ensemble(bank, image_of()).attention(threshold=128, top_share=1.0)
    assert attention.heat.max() > 200
    assert attention.boxes


def query_only(models: Path) -> None:
    path = models / "looking" / "manifest.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[input]", 'query_only = "made so"\n\n[input]', 1))


def test_occlusion_finds_what_the_label_comes_from(models: Path) -> None:
    """As Grad-CAM does: the green corner makes it class 1."""
    stored = np.zeros((1, 32, 32, 3), np.int32)
    stored[0, 20:28, 4:12, 1] = 255
    query_only(models)
    bank = load_bank("toy", ["looking"], None, CPU)
    assert bank.attention_by == "occlusion"
    ensemble = Ensemble(bank, MedicalImage(stored, (0, 255), Window(0, 255)))
    assert ensemble.clean.label == 1
    (box,) = ensemble.attention(threshold=128, top_share=1.0).boxes
    assert abs(box.x + box.width / 2 - 8) <= 3
    assert abs(box.y + box.height / 2 - 24) <= 3
    assert max(box.width, box.height) <= 16


def test_occlusion_without_a_task_follows_the_features(models: Path) -> None:
    query_only(models)
    bank = load_bank(None, (), None, CPU)
    stored = np.zeros((1, 32, 32, 3), np.int32)
    stored[0, 4:12, 20:28] = 255
    ensemble = Ensemble(bank, MedicalImage(stored, (0, 255), Window(0, 255)))
    (box,) = ensemble.attention(threshold=128, top_share=1.0).boxes
    assert abs(box.x + box.width / 2 - 24) <= 3
    assert abs(box.y + box.height / 2 - 8) <= 3


def test_graph_that_cannot_be_converted_is_looked_through_by_occlusion(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx2fx

    def unable(proto: object) -> None:
        raise NotImplementedError("operator")

    monkeypatch.setattr(onnx2fx, "convert", unable)
    bank = load_bank("toy", (), None, CPU)
    assert bank.attention.manifest.name == "looking"
    assert bank.attention_by == "occlusion"
    assert Ensemble(bank, image_of()).attention(threshold=1, top_share=1.0).heat.shape == (40, 50)


def rename_labels(folder: Path, labels: str) -> None:
    path = folder / "manifest.toml"
    text = path.read_text(encoding="utf-8")
    assert '["no", "yes"]' in text
    path.write_text(text.replace('["no", "yes"]', labels), encoding="utf-8")


def test_classes_in_another_order_are_put_in_order(models: Path) -> None:
    plain = Ensemble(load_bank("toy", (), None, CPU), image_of()).clean
    rename_labels(models / "looking", '["yes", "no"]')
    turned = Ensemble(load_bank("toy", (), None, CPU), image_of()).clean
    np.testing.assert_allclose(turned.probabilities[0], plain.probabilities[0])
    np.testing.assert_allclose(turned.probabilities[1], plain.probabilities[1][::-1])


def test_grad_cam_follows_the_class_in_the_order_of_the_bank(models: Path) -> None:
    view = np.random.default_rng(1).random((3, 8, 8), np.float32)
    plain = load_bank("toy", (), None, CPU).attention.differentiable.cam(view, "toy", 0)
    rename_labels(models / "looking", '["yes", "no"]')
    turned = load_bank("toy", (), None, CPU).attention.differentiable.cam(view, "toy", 1)
    np.testing.assert_allclose(turned, plain)


def test_models_with_other_classes_make_no_ensemble(models: Path) -> None:
    rename_labels(models / "looking", '["no", "perhaps"]')
    with pytest.raises(ModelUnusable, match="flat and looking answer toy with different labels"):
        load_bank("toy", (), None, CPU)
    assert load_bank("toy", ["flat"], None, CPU).attention.manifest.name == "flat"


def test_named_models_without_features_bring_their_own_task(models: Path) -> None:
    assert load_bank("unheard-of", ["flat"], None, CPU).task == "toy"
    assert load_bank(None, ["flat", "looking"], None, CPU).task == "toy"
    assert load_bank(None, ["looking"], None, CPU).task is None


def test_model_is_found_by_its_folder_and_by_its_file(models: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "mine"
    write_convolutional_model(elsewhere, bias=2.0)
    for reference in (elsewhere, elsewhere / "model.onnx"):
        bank = load_bank("toy", [str(reference)], None, CPU)
        assert [one.manifest.name for one in bank.surrogates] == ["mine"]
    copy = tmp_path / "copy.onnx"
    copy.write_bytes((models / "flat" / "model.onnx").read_bytes())
    assert load_bank("toy", [str(copy)], None, CPU).surrogates[0].manifest.name == "flat"


def test_file_that_nothing_describes_is_refused_with_what_to_do(
    models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bare.onnx"
    path.write_bytes(b"anything")
    with pytest.raises(UsageError, match="nothing says what this model answers") as refusal:
        load_bank("toy", [str(path)], None, CPU)
    assert f"miad models add {path} --labels" in refusal.value.hint


def test_two_models_of_one_name_are_refused(models: Path) -> None:
    write_convolutional_model(user_models_directory() / "looking")
    with pytest.raises(ModelUnusable, match="two models are called looking"):
        load_bank("toy", (), None, CPU)


def test_empty_bank_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_room, "models_directory", lambda: tmp_path)
    with pytest.raises(ModelUnusable, match="no classifier"):
        load_bank("toy", (), None, CPU)


def test_bank_digest_names_its_models(models: Path) -> None:
    both, one = load_bank("toy", (), None, CPU), load_bank("toy", ["looking"], None, CPU)
    assert both.digest == load_bank("toy", (), None, CPU).digest
    assert both.digest != one.digest
    # Who says where the logo may not be decides as well, although it is not attacked.
    flat = load_bank("toy", ["flat"], "looking", CPU)
    assert flat.digest != replace(flat, attention=flat.surrogates[0]).digest
