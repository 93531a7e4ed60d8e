"""The setting of BERTScore that printed a table is found again, by bert-score's own function."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import bert_score
import pandas as pd
import pytest

from mmn_utils.measures.encoder import default_encoder
from mmn_utils.studies.golden import similarity
from mmn_utils.studies.golden.__main__ import told_likeness
from mmn_utils.studies.golden.similarity import (
    BASELINE,
    CAPTIONS,
    SCORES,
    encoders_here,
    printed_pairs,
    try_similarities,
)

SETTINGS = list(product((3, 6), (False, True), (False, True)))  # layer, idf, rescaled


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The packaged encoder, with a baseline beside it."""
    place = tmp_path_factory.mktemp("encoder")
    for file in default_encoder().iterdir():
        (place / file.name).symlink_to(file)
    rows = [f"{layer},0.3,0.3,{0.2 + layer / 40}" for layer in range(7)]
    (place / BASELINE).write_text("\n".join(["LAYER,P,R,F", *rows]) + "\n")
    return place


def print_scores(folder: Path, encoder: Path, layer: int, idf: bool, rescaled: bool) -> None:
    """Write Table S.3 as if the paper had scored its captions under this setting."""
    captions = pd.read_csv(f"data/golden/{CAPTIONS}.csv")
    captions.to_csv(folder / f"{CAPTIONS}.csv", index=False)
    table, pairs = captions[["image", "ablated"]].copy(), printed_pairs()
    found = bert_score.score(
        pairs["caption"].tolist(), pairs["original"].tolist(), model_type=str(encoder),
        num_layers=layer, lang="en", rescale_with_baseline=rescaled,
        baseline_path=str(encoder / BASELINE), idf=idf_of(pairs) if idf else False,
    )[2]  # fmt: skip
    keys = zip(pairs["caption"], pairs["original"], strict=True)
    scores = dict(zip(keys, found.tolist(), strict=True))
    for one in ("multimodal", "interpretable", "random"):
        texts = captions[f"caption_{one}"]
        originals = texts.where(captions["ablated"] == 0).ffill()
        table[f"bertscore_{one}"] = [
            round(scores.get(pair, 1.0), 2) for pair in zip(texts, originals, strict=True)
        ]
    table.to_csv(folder / f"{SCORES}.csv", index=False)


def idf_of(pairs: pd.DataFrame) -> dict:
    """Weigh tokens by the captions without ablation, each once."""
    tokenizer = bert_score.utils.get_tokenizer(str(default_encoder()))
    tokenizer.model_max_length = 512
    return bert_score.utils.get_idf_dict(pairs["original"].unique().tolist(), tokenizer)


@pytest.mark.parametrize(("layer", "idf", "rescaled"), [(6, False, True), (3, True, False)])
def test_the_setting_that_printed_the_scores_is_found(folder, tmp_path, layer, idf, rescaled):
    print_scores(tmp_path, folder, layer, idf, rescaled)
    encoders = encoders_here([f"{folder}:3", f"{folder}:6"])
    table = try_similarities(encoders, printed_pairs(tmp_path))
    assert len(table) == len(SETTINGS)
    best = table.iloc[0]
    assert (best["layer"], best["idf"], best["rescaled"]) == (layer, idf, rescaled)
    assert best["same"] == best["n"]
    assert table.iloc[1]["same"] < best["n"] / 2
    assert best["error"] <= 0.005
    assert f"layer {layer}, idf = {idf}, rescaled = {rescaled}" in told_likeness(table)


def test_the_papers_pairs_are_read_once_each():
    pairs = printed_pairs()
    assert len(pairs) == len(pairs.drop_duplicates())
    assert (pairs["caption"] != pairs["original"]).all()
    dog = pairs[(pairs["original"] == "a dog with a cat") & (pairs["caption"] == "a dog and a cat")]
    assert dog["printed"].tolist() == [0.83]
    assert pairs["printed"].between(0.3, 1).all()


def test_tables_that_do_not_belong_together_are_refused(tmp_path):
    for name in (SCORES, CAPTIONS):
        pd.read_csv(f"data/golden/{name}.csv").to_csv(tmp_path / f"{name}.csv", index=False)
    pd.read_csv(tmp_path / f"{CAPTIONS}.csv").iloc[1:].to_csv(tmp_path / f"{CAPTIONS}.csv")
    with pytest.raises(ValueError, match="must have the same rows"):
        printed_pairs(tmp_path)


@pytest.mark.usefixtures("offline")
def test_encoders_are_only_looked_for(monkeypatch, folder):
    monkeypatch.setattr(similarity, "model2layers", {"roberta-large": 17, "bert-base-uncased": 9})
    assert encoders_here() == []
    with pytest.raises(FileNotFoundError, match="hf download roberta-large"):
        encoders_here(["roberta-large"])
    with pytest.raises(ValueError, match="give FOLDER:LAYER"):
        encoders_here(["robberta"])
    assert encoders_here([f"{folder}:4"])[0].layer == 4
