"""Receptive fields against masks: a table against one photograph alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mmn_utils.datasets import Instance, Photograph
from mmn_utils.datasets.published import published
from mmn_utils.measures.estimates import difference_of, share_of
from mmn_utils.neurons.receptive_fields import activation_maps, iou, mask, resize_truth, upsample
from mmn_utils.neurons.table import RANDOM, TOP, Neuron, controls
from mmn_utils.studies import subjects as study
from mmn_utils.studies.selectivity import overlap
from tests.studies.boxes import subjects_of
from tests.tiny import PIXELS, tiny_limber

K = 12


def test_controls_copy_layers_and_depend_on_the_image_alone(system, photographs):
    table = study.top_neurons(system, subjects_of(system, photographs), k=K, progress=False)
    few = controls(table[table["image"] != "2"], system.sizes.units, seed=1, k=6)
    every = controls(table, system.sizes.units, seed=1, k=6)
    assert all(every[image] == sets for image, sets in few.items())
    assert "2" in every
    top, drawn = every["2"][TOP], every["2"][RANDOM]
    assert [n.layer for n in top] == [n.layer for n in drawn]
    assert not set(top) & set(drawn)
    assert drawn != controls(table, system.sizes.units, seed=2, k=6)["2"][RANDOM]


@pytest.mark.parametrize("whole_set", [False, True], ids=["map", "dataset"])
def test_the_iou_table_is_what_one_photograph_alone_gives(system, photographs, whole_set):
    table = study.top_neurons(system, subjects_of(system, photographs), k=K, progress=False)
    chosen = controls(table, system.sizes.units, seed=0, k=4)
    every = [n for sets in chosen.values() for some in sets.values() for n in some]
    levels = (
        overlap.unit_thresholds(system, photographs, every, 0.8, at_once=7) if whole_set else None
    )
    cut = overlap.Cut(0.8, levels)
    objects = {p.id: ["horse"] for p in photographs}
    found = overlap.iou_table(
        system, photographs, objects, chosen, cut=cut, batch_size=3, progress=False
    )
    assert len(found) == 5 * 2 * (4 + 1)
    photograph = photographs[3]
    units = chosen["3"][RANDOM]
    maps = activation_maps(system, [photograph.open()], units)[0]
    truth = resize_truth(photograph.mask("horse"), PIXELS)
    thresholds = torch.tensor([levels[n] for n in units]) if whole_set else None
    singles = mask(upsample(maps, PIXELS), 0.8, thresholds)
    mean = mask(upsample(maps.mean(0), PIXELS), 0.8)
    rows = found[(found["image"] == "3") & (found["condition"] == RANDOM)]
    expected = [*iou(singles, truth).tolist(), iou(mean, truth).item()]
    # batches round otherwise than one photograph: a pixel at the very threshold may fall either way
    np.testing.assert_allclose(rows["iou"], expected, atol=0.002)
    assert rows["rank"].tolist() == [0, 1, 2, 3, overlap.MEAN_MASK]
    assert [Neuron(a, b) for a, b in rows[["layer", "unit"]].to_numpy()[:4]] == units


def test_iou_by_image_averages_units_and_keeps_the_mean_mask_apart():
    values = {TOP: (0.2, 0.4, 0.9), RANDOM: (0, 0.2, 0.5)}
    ranks = (0, 1, overlap.MEAN_MASK)
    rows = [
        ("1", "cat", condition, rank, 0, 0, value)
        for condition, some in values.items()
        for rank, value in zip(ranks, some, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["image", *overlap.IOU_COLUMNS])
    assert overlap.iou_by_image(table).iloc[0].tolist() == ["cat", "1", pytest.approx(0.3), 0.1]
    assert overlap.iou_by_image(table, mean_mask=True).iloc[0].tolist() == ["cat", "1", 0.9, 0.5]


def test_maps_are_cut_at_their_own_quantile_or_over_the_photographs(system, photographs):
    chosen = [{TOP: [Neuron(0, 3)], RANDOM: [Neuron(0, 5)]}]
    assert overlap.cut_over("map", system, photographs, chosen, 0.8) == overlap.Cut(0.8)
    cut = overlap.cut_over("dataset", system, photographs, chosen, 0.8)
    every = [Neuron(0, 3), Neuron(0, 5)]
    assert cut.thresholds == overlap.unit_thresholds(system, photographs, every, 0.8)
    with pytest.raises(ValueError, match="mask_over='unit'"):
        overlap.cut_over("unit", system, photographs, chosen)


def made_overlaps() -> pd.DataFrame:
    """Three categories: top units are ahead in two, and alike in the third."""
    rows = [
        ("cat", "1", 0.4, 0.1), ("cat", "2", 0.6, 0.1), ("dog", "2", 0.2, 0.1),
        ("dog", "3", 0.2, 0.1), ("pig", "4", 0.3, 0.3), ("pig", "3", 0.3, 0.3),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["category", "image", TOP, RANDOM])


def test_named_are_images_whose_noun_is_the_category():
    nouns = {"1": "cats", "2": "dog", "3": "grass", "4": "pig"}
    table = overlap.add_named(made_overlaps(), nouns)
    assert table["named"].tolist() == [True, False, True, False, True, False]


def test_a_picture_with_several_objects_counts_once():
    table = made_overlaps().assign(named=[True, False, True, False, True, False])
    found = overlap.by_picture(table)
    assert found.index.tolist() == ["1", "2", "3", "4"]
    np.testing.assert_allclose(found[TOP], [0.4, 0.4, 0.25, 0.3])
    np.testing.assert_allclose(found[RANDOM], [0.1, 0.1, 0.2, 0.3])
    assert found["named"].tolist() == [1, 0.5, 0, 1]


def test_categories_are_averaged_over_their_images():
    table = overlap.by_category(made_overlaps())
    assert table["category"].tolist() == ["cat", "pig", "dog"]
    assert table["pictures"].tolist() == [2, 2, 2]
    np.testing.assert_allclose(table[TOP], [0.5, 0.3, 0.2])
    np.testing.assert_allclose(table["difference"], [0.4, 0, 0.1])
    cat = table.iloc[0]
    assert (cat[f"{TOP} low"], cat[f"{TOP} high"]) == share_of([0.4, 0.6]).ci
    assert cat["difference low"] == difference_of([0.4, 0.6], [0.1, 0.1]).low


def test_no_mask_exceeds_what_its_size_allows(system, photographs):
    table = pd.DataFrame({"image": ["0", "3"], "category": ["horse", "horse"]})
    found = overlap.best_possible(system, photographs, table, overlap.Cut(0.9))
    filled = [photographs[i].mask("horse").mean() for i in (0, 3)]
    assert found.tolist() == pytest.approx([min(f, 0.1) / max(f, 0.1) for f in filled])
    assert overlap.best_possible(system, photographs, table, overlap.Cut(0.9, {})).isna().all()


def test_masks_and_objects_lie_over_the_same_cut_out_square(tmp_path):
    """A system that cuts the middle out is that system on the middle, masks and all."""
    system = tiny_limber(fit="crop")
    whole, middle = wide_photographs(tmp_path)
    neurons = {TOP: [Neuron(1, 3), Neuron(0, 7)], RANDOM: [Neuron(1, 4), Neuron(0, 8)]}
    found = [
        overlap.iou_table(system, [one], {one.id: ["horse"]}, {one.id: neurons}, progress=False)
        for one in (whole, middle)
    ]
    assert found[0].drop(columns="image").equals(found[1].drop(columns="image"))
    assert found[0]["iou"].max() > 0
    table = pd.DataFrame({"image": ["whole", "middle"], "category": "horse"})
    possible = overlap.best_possible(system, [whole, middle], table, overlap.Cut(0.9))
    assert possible[0] == possible[1]
    shown = [overlap.example(system, one, "horse", neurons, found[0], 1) for one in (whole, middle)]
    assert shown[0].picture.tobytes() == shown[1].picture.tobytes()
    assert (shown[0].truth == shown[1].truth).all()


def wide_photographs(folder) -> list[Photograph]:
    """Return a photograph thrice as wide as high, and its middle, each with a box on it."""
    noise = np.random.default_rng(0).integers(0, 256, (PIXELS, 3 * PIXELS, 3), dtype=np.uint8)
    found = []
    for name, left, width in (("whole", 0, 3 * PIXELS), ("middle", PIXELS, PIXELS)):
        path = folder / f"{name}.png"
        Image.fromarray(noise[:, left : left + width]).save(path)
        x, y = PIXELS + 6 - left, 4
        box = [[x, y, x + 12, y, x + 12, y + 9, x, y + 9]]
        one = Instance("horse", "animal", 108.0, False, (PIXELS, width), box)
        found.append(Photograph(name, path, instances=(one,), size=(PIXELS, width)))
    return found


def test_rows_of_masks_hold_the_mean_and_the_single_ones():
    single = made_overlaps()
    mean = single.assign(**{TOP: 0.9, RANDOM: 0.2}).iloc[::-1]
    rows = overlap.mask_rows(single, mean).sort_values(["category", "image"])
    assert list(rows) == ["category", "image", "top", "random", "single_top", "single_random"]
    assert rows["top"].eq(0.9).all()
    assert rows["single_top"].tolist() == [0.4, 0.6, 0.2, 0.2, 0.3, 0.3]


def test_examples_name_their_object_where_some_do():
    table = made_overlaps().assign(named=[False, True, False, True, False, True])
    members = {"pig": ["4", "3"], "dog": ["2", "3"], "cat": ["1", "2"]}
    # 3 is the first that names dog, so pig has the other one that it may stand for
    assert overlap.first_of_each(table, members, 3) == {"4": "pig", "3": "dog", "2": "cat"}
    assert overlap.first_of_each(table, members, 1) == {"4": "pig"}


def test_an_example_has_the_mask_of_the_mean_first_and_of_random_units_last(system, photographs):
    units = [Neuron(0, 3), Neuron(1, 5), Neuron(1, 6)]
    chosen = {TOP: units, RANDOM: units[:1]}
    objects = {photographs[1].id: ["horse"]}
    asked = (system, [photographs[1]], objects, {photographs[1].id: chosen})
    table = overlap.iou_table(*asked, progress=False)
    found = overlap.example(system, photographs[1], "horse", chosen, table, 2)
    assert found.names == ["mean of 3\ntop units", "L0.u3", "L1.u5", "mean of 1\nrandom units"]
    truth = resize_truth(found.truth, PIXELS)
    assert found.ious == pytest.approx(iou(torch.from_numpy(found.masks), truth).tolist())
    np.testing.assert_array_equal(found.truth, photographs[1].mask("horse"))
    nothing = overlap.example(system, photographs[1], "horse", chosen, table[:0], 2)
    assert np.isnan(nothing.ious).all()


def test_the_papers_own_overlaps_are_of_means_and_of_single_masks():
    table = published("A-fig-S1")
    mean = [float(row.iou) for row in table.itertuples() if row.mask.startswith("mean")]
    found = overlap.published_overlap()
    assert set(found) == {"mean", "single"}
    assert found["mean"] == pytest.approx(sum(mean) / 8)
    assert found["single"] < found["mean"]
