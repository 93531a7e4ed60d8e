"""The atlas of a tiny system against what is computed directly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmn_utils.browser.atlas import activity
from mmn_utils.browser.atlas import build as atlas_module
from mmn_utils.browser.atlas.activity import BINS, EDGES
from mmn_utils.browser.atlas.build import COMPARED, compared
from mmn_utils.browser.atlas.files import TABLES
from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.browser.atlas.words import directions, interpretable_rows, projection
from mmn_utils.neurons.decoding import decode, interpretable
from mmn_utils.neurons.receptive_fields import activation_maps, iou, mask, resize_truth, upsample
from mmn_utils.neurons.table import Neuron, best_of
from mmn_utils.studies.concepts.scoring import top_neurons
from mmn_utils.studies.subjects import subjects
from tests.browser.conftest import SEED, SINGLES, make
from tests.studies.boxes import boxed
from tests.tiny import tiny_limber

SOME = [Neuron(0, 0), Neuron(0, 127), Neuron(1, 5), Neuron(2, 64), Neuron(2, 127)]
HALF = {"rtol": 1e-3, "atol": 1e-5}  # of values that are kept to float16's precision


@pytest.fixture(scope="module")
def maps(made):
    """All activations at image tokens: (images, neurons of SOME, patches)."""
    pictures = [photograph.open() for photograph in made.photographs]
    return activation_maps(made.model, pictures, SOME).flatten(2).numpy()


# --- words -------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "final"])
@pytest.mark.parametrize(("end", "sign"), [("writes", 1), ("suppresses", -1)])
def test_both_ends_are_the_write_vector_and_its_negative_through_the_unembedding(
    made, end, sign, norm
):
    model = made.model
    for neuron in SOME:
        vector = sign * model.write_vectors(neuron.layer)[neuron.unit]
        read = model.final_norm(vector) if norm == "final" else vector
        logits = F.linear(read, model.unembedding[0])
        above = (logits - logits.mean()).sort(descending=True)
        tokens = made.atlas.neuron(neuron).tokens[end, norm]
        assert [token.token for token in tokens] == above.indices[:10].tolist()
        np.testing.assert_allclose(
            [token.logit for token in tokens], above.values[:10].detach(), **HALF
        )
        assert [token.text for token in tokens] == [
            model.token_strings[token.token] for token in tokens
        ]


def test_what_is_written_is_what_decoding_says(made):
    table = decode(made.model, SOME)
    for neuron, rows in zip(SOME, np.split(table["token"].to_numpy(), len(SOME)), strict=True):
        assert [token.token for token in made.atlas.neuron(neuron).writes] == rows.tolist()


def test_interpretable_as_the_paper_has_it(made):
    every = [Neuron(layer, unit) for layer in range(3) for unit in range(128)]
    wanted = interpretable(made.model, every)
    assert {n: made.atlas.neuron(n).interpretable for n in every[::16]} == {
        n: wanted[n] for n in every[::16]
    }
    other = interpretable(made.model, [(n, -1) for n in every])
    assert {n: made.atlas.neuron(n).interpretable_suppresses for n in every[::16]} == {
        n: other[n, -1] for n in every[::16]
    }
    texts = [" horse", " boat", "ab", "<b>", " the"]
    rows = np.array([[0, 1, 4, 0, 1, 4, 0, 2, 2, 3], [0, 1, 4, 0, 1, 4, 2, 2, 3, 3]])
    assert interpretable_rows(rows, texts).tolist() == [True, False]


def test_narrow_directions_are_exact_and_wide_ones_near():
    model = tiny_limber(SEED)
    own = F.normalize(model.write_vectors(1).float(), dim=-1)
    np.testing.assert_allclose(directions(model, 1), own.detach(), atol=1e-3)
    wide = F.normalize(torch.randn(300, 1024, generator=torch.Generator().manual_seed(1)), dim=-1)
    reduced = F.normalize(wide @ projection(1024), dim=-1)
    error = (reduced @ reduced.T - wide @ wide.T)[~torch.eye(300, dtype=torch.bool)]
    assert 0.05 < error.std() < 0.12  # about 1 / sqrt(128)


# --- pictures ----------------------------------------------------------------------------


def test_strongest_middle_and_random_pictures(made, maps):
    ids = [photograph.id for photograph in made.photographs]
    peaks, patches = maps.max(2), maps.argmax(2)
    for i, neuron in enumerate(SOME):
        sights = made.atlas.neuron(neuron).sights
        order = np.argsort(-peaks[:, i], kind="stable")
        assert [sight.image for sight in sights["strongest"]] == [ids[row] for row in order]
        assert {kind: len(some) for kind, some in sights.items()} == dict.fromkeys(sights, 5)
        for sight in (*sights["strongest"], *sights["middle"], *sights["random"]):
            row = ids.index(sight.image)
            assert sight.value == pytest.approx(peaks[row, i], rel=1e-3)
            assert sight.patch == patches[row, i]


def test_the_middle_lies_round_the_median_and_draws_differ_by_unit_and_seed():
    rng = np.random.default_rng(0)
    peaks = rng.standard_normal((31, 2, 6)).astype(np.float32)
    found = activity.Activity(peaks, np.zeros(peaks.shape, np.int16), np.zeros((2, 6, BINS)), {})
    seen = activity.shown(found, seed=0, k=5)
    flat = peaks.reshape(31, 12)
    np.testing.assert_array_equal(seen["middle"].values[:, 2], np.median(flat, axis=0))
    np.testing.assert_array_equal(seen["strongest"].values, -np.sort(-flat, axis=0)[:5].T)
    drawn = seen["random"].pictures
    assert all(len(set(row)) == 5 for row in drawn.tolist())
    assert len({tuple(row) for row in drawn.tolist()}) > 6
    np.testing.assert_array_equal(drawn, activity.shown(found, seed=0, k=5)["random"].pictures)
    assert (drawn != activity.shown(found, seed=1, k=5)["random"].pictures).any()


def test_histogram_and_share_of_negative_activations(made, maps):
    for i, neuron in enumerate(SOME):
        card = made.atlas.neuron(neuron)
        values = maps[:, i].ravel()
        wanted = np.bincount(np.digitize(values, EDGES), minlength=BINS)
        assert list(card.histogram) == wanted.tolist()
        assert card.negative == pytest.approx((values < 0).mean(), abs=1e-6)


def test_a_value_on_an_edge_belongs_to_the_bin_above():
    field = torch.tensor([0.0, -8.0, 8.0, 9.0, -9.0]).reshape(1, 5, 1)
    found = activity.counts(field)[0, :, 0]
    wanted = np.bincount(np.digitize(field.flatten().numpy(), EDGES), minlength=BINS)
    assert found.tolist() == wanted.tolist()


def test_overlaps_are_the_mean_over_pictures_with_a_single_object(made, maps):
    pixels, grid = made.model.image_tokens.pixels, made.model.image_tokens.grid
    for i, neuron in enumerate(SOME):
        values = []
        for row, photograph in enumerate(made.photographs):
            if photograph.id in SINGLES["horse"]:
                up = upsample(torch.from_numpy(maps[row, i]).reshape(grid), pixels)
                truth = resize_truth(photograph.mask("horse"), pixels)
                values.append(float(iou(mask(up), truth)))
        ((category, value),) = made.atlas.neuron(neuron).overlaps
        assert category == "horse"
        assert value == pytest.approx(np.mean(values), rel=2e-3)


def test_few_pictures_of_a_category_are_compared_and_none_without_a_grid(made, tmp_path):
    singles = {"horse": frozenset("01234")}
    chosen = compared(made.model, made.photographs, singles)
    assert list(chosen) == [photograph.id for photograph in made.photographs][:COMPARED]
    queries = tiny_limber(SEED)
    queries.image_tokens = replace(queries.image_tokens, grid=None)
    assert compared(queries, made.photographs, singles) == {}
    with Atlas.open(make(queries, made.photographs, tmp_path / "queries")) as atlas:
        card = atlas.neuron("L1.u5")
    assert card.overlaps == ()
    assert card.sights == made.atlas.neuron("L1.u5").sights


# --- scores ------------------------------------------------------------------------------


def test_places_are_those_of_the_neuron_tables(made):
    some = subjects(made.model, made.photographs, progress=False)
    tables = top_neurons(made.model, some, k=10, progress=False)
    for method, table in tables.items():
        for (image, noun), best in best_of(table, 10).items():
            for rank in (1, 10):
                places = made.atlas.neuron(best[rank - 1]).places
                assert (method, image, noun, rank) in [
                    (place.method, place.image, place.noun, place.rank) for place in places
                ]
    lengths = sum(len(made.atlas.neuron(Neuron(2, unit)).places) for unit in range(128))
    assert lengths == sum(int((table["layer"] == 2).sum()) for table in tables.values())


def test_a_place_has_the_activation_that_its_neuron_was_found_with(made):
    some = subjects(made.model, made.photographs, progress=False)
    for method, table in top_neurons(made.model, some, k=10, progress=False).items():
        found = {
            (image, noun, row["layer"], row["unit"]): row["activation"]
            for image in made.atlas.pictures()["image"]
            for noun, rows in made.atlas.image(image).scores.groupby("target")
            for row in rows[rows["method"] == method].to_dict("records")
        }
        keys = zip(table["image"], table["target"], table["layer"], table["unit"], strict=True)
        expected = dict(zip(keys, table["activation"], strict=True))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)  # of another batch


def test_a_picture_has_its_captions_nouns_and_masks(made):
    some = subjects(made.model, made.photographs, progress=False)
    for photograph, targets in zip(some.photographs, some.every, strict=True):
        picture = made.atlas.image(photograph.id)
        assert picture.caption == some.texts[photograph.id]
        assert picture.human == photograph.captions
        assert [(n.noun, n.token, n.step) for n in picture.nouns] == [
            (target.noun, target.token, len(target.prefix)) for target in targets
        ]
        (one,) = picture.masks
        np.testing.assert_array_equal(one.pixels(), photograph.mask("horse"))


# --- bytes -------------------------------------------------------------------------------


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_system_and_pictures_give_the_same_bytes(made, tmp_path):
    again = make(tiny_limber(SEED), made.photographs, tmp_path / "again")
    assert content(again) == content(made.folder)
    assert set(content(again)) == {"facts.json", *(f"{name}.parquet" for name in TABLES)}


def test_a_killed_build_leaves_nothing_and_resumes_to_the_same_files(made, tmp_path, monkeypatch):
    whole, batches = activity._batch, []

    def dying(model, photographs, objects):
        if batches:
            raise KeyboardInterrupt
        batches.append(len(photographs))
        return whole(model, photographs, objects)

    monkeypatch.setattr(activity, "_batch", dying)
    with pytest.raises(KeyboardInterrupt):
        make(made.model, made.photographs, tmp_path / "killed")
    assert not (tmp_path / "killed").exists()

    def counting(model, photographs, objects):
        batches.append(len(photographs))
        return whole(model, photographs, objects)

    monkeypatch.setattr(activity, "_batch", counting)
    assert content(make(made.model, made.photographs, tmp_path / "killed")) == content(made.folder)
    assert batches == [3, 2]


def test_another_object_is_compared_afresh(made, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    photographs = boxed(folder)
    first = activity.activity(made.model, photographs, {"0": ["horse"]}, progress=False)
    smaller = replace(photographs[0].instances[0], segmentation=[[2, 2, 9, 2, 9, 9, 2, 9]])
    photographs[0] = replace(photographs[0], instances=(smaller,))
    second = activity.activity(made.model, photographs, {"0": ["horse"]}, progress=False)
    assert (first.overlaps["horse"] != second.overlaps["horse"]).any()
    # a picture alone rounds otherwise than in its batch
    np.testing.assert_allclose(first.peaks, second.peaks, atol=1e-5)


@pytest.mark.weights
def test_the_command_makes_a_presets_atlas(tmp_path, monkeypatch, capsys):
    from mmn_utils.browser import __main__ as command

    monkeypatch.setenv("MMN_ATLAS", str(tmp_path))
    monkeypatch.setattr(atlas_module, "COMPARED", 0)
    preset = tmp_path / "small.yaml"
    preset.write_text("name: small\nsettings: {model: miniature, n_images: 2}\n")
    assert command.main(["atlas", str(preset)]) == 0
    assert "small" in capsys.readouterr().out
    with Atlas.open(tmp_path / "small") as atlas:
        assert len(atlas.search("horse")) > 0
        assert (atlas.facts.run, atlas.facts.model) == ("small", "miniature")
    assert command.main(["atlas", "nowhere"]) == 2
    assert "no preset 'nowhere'" in capsys.readouterr().err


def test_an_atlas_is_made_again_only_when_something_else_is_asked(made, tmp_path, monkeypatch):
    built = []
    build = atlas_module.build
    monkeypatch.setattr(
        atlas_module, "build", lambda *args, **kw: built.append(1) or build(*args, **kw)
    )
    monkeypatch.setenv("MMN_ATLAS", str(tmp_path / "atlases"))

    def current(photographs=made.photographs, singles=SINGLES, **options):
        options = {"k": 5, "progress": False, **options}
        return atlas_module.current("tiny", made.model, photographs, singles, **options)

    folder = current()
    assert folder == tmp_path / "atlases" / "tiny"
    first = content(folder)
    assert current() == folder
    assert built == [1]
    assert content(folder) == first
    current(k=6)
    current(k=6, photographs=made.photographs[:4])
    current(k=6, photographs=made.photographs[:4], singles={})
    assert built == [1] * 4
    with Atlas.open("tiny") as atlas:
        assert atlas.facts.k == 6
    (folder / "cards.parquet").unlink()
    current(k=6, photographs=made.photographs[:4], singles={})
    assert built == [1] * 5, "an incomplete one is made again"
