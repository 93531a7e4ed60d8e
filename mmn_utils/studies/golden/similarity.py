"""Every reading of "BERTScore", and how near it comes to the printed scores of Table S.3.

Scored by bert-score itself, as the paper's authors will have: model and layer, weights by
inverse document frequency, rescaling with a baseline. Its version is the installed one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path

import bert_score
import numpy as np
import pandas as pd
from bert_score import BERTScorer
from bert_score.utils import model2layers
from huggingface_hub import snapshot_download

from mmn_utils.compat import quiet_loading
from mmn_utils.presets import data_path

SCORES, CAPTIONS = "A-table-S3", "ablation_captions"
CONDITIONS = ("multimodal", "interpretable", "random")
BASELINES = Path(bert_score.__file__).parent / "rescale_baseline" / "en"
BASELINE = "baseline.tsv"  # beside an encoder of one's own: bert-score's format
ROUNDING = 0.005  # of scores printed with two figures


@dataclass(frozen=True)
class Encoder:
    """A text encoder that is here: its name, its folder, the layer, the baseline if it has one."""

    name: str
    folder: Path
    layer: int
    baseline: Path | None


def encoders_here(named: Sequence[str] = ()) -> list[Encoder]:
    """List the encoders to try: those ``named``, else all that bert-score knows in the hub's cache.

    A name is FOLDER:LAYER, or one that bert-score knows. Nothing is downloaded. ``ValueError``
    for a name that is neither, FileNotFoundError for one whose weights are not here.
    """
    if named:
        return [_named(name) for name in named]
    return [one for one in map(_cached, model2layers) if one is not None]


def _named(name: str) -> Encoder:
    folder, _, layer = name.rpartition(":")
    if folder and layer.isdigit() and Path(folder).is_dir():
        baseline = Path(folder) / BASELINE
        return Encoder(
            Path(folder).name, Path(folder), int(layer), baseline if baseline.is_file() else None
        )
    if name not in model2layers:
        raise ValueError(
            f"encoder = {name!r}: give FOLDER:LAYER, or a name that bert-score knows, such as "
            "roberta-large"
        )
    found = _cached(name)
    if found is None:
        raise FileNotFoundError(f"the hub's cache has no weights of {name}: hf download {name}")
    return found


def _cached(name: str) -> Encoder | None:
    """Find an encoder in the hub's cache, weights included, without asking the hub."""
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None
    if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        return None
    baseline = BASELINES / f"{name}.tsv"
    return Encoder(name, folder, model2layers[name], baseline if baseline.is_file() else None)


def printed_pairs(folder: str | Path | None = None) -> pd.DataFrame:
    """Return captions under ablation beside those without, each pair once, and printed scores.

    Columns ``caption``, ``original``, ``printed``; the same texts, whose score is 1, left out.
    ``folder`` holds the two tables, data/golden by default.
    """
    home = Path(folder or data_path("golden"))
    scores, captions = (pd.read_csv(home / f"{name}.csv") for name in (SCORES, CAPTIONS))
    keys = ["image", "ablated"]
    if not scores[keys].equals(captions[keys]):
        raise ValueError(f"{SCORES}.csv and {CAPTIONS}.csv in {home} must have the same rows")
    first = captions["ablated"] == 0  # an image's rows begin with it
    tables = [
        pd.DataFrame(
            {
                "caption": captions[f"caption_{one}"],
                "original": captions[f"caption_{one}"].where(first).ffill(),
                "printed": scores[f"bertscore_{one}"],
            }
        )
        for one in CONDITIONS
    ]
    pairs = pd.concat(tables).drop_duplicates(ignore_index=True)
    return pairs[pairs["caption"] != pairs["original"]].reset_index(drop=True)


def try_similarities(encoders: Iterable[Encoder], pairs: pd.DataFrame) -> pd.DataFrame:
    """Score the printed pairs under every setting; a row for each, the nearest first.

    ``encoder``, ``layer``, ``idf``, ``rescaled``, ``version`` of bert-score; ``same``, how many of
    the ``n`` scores are those printed to their two figures, and ``error``, the mean absolute
    difference. Weights are by the frequencies among the captions without ablation.
    """
    rows = []
    for encoder, idf in product(encoders, (False, True)):
        for rescaled in (False, True) if encoder.baseline else (False,):
            found = _scores(encoder, idf, rescaled, pairs)
            off = np.abs(found - pairs["printed"].to_numpy())
            rows.append(
                {
                    "encoder": encoder.name, "layer": encoder.layer, "idf": idf,
                    "rescaled": rescaled, "version": version("bert-score"),
                    "same": int((off <= ROUNDING + 1e-6).sum()), "n": len(pairs),
                    "error": float(off.mean()),
                }
            )  # fmt: skip
    table = pd.DataFrame(rows)
    return table.sort_values(["same", "error"], ascending=[False, True], ignore_index=True)


def _scores(encoder: Encoder, idf: bool, rescaled: bool, pairs: pd.DataFrame) -> np.ndarray:
    """Return bert-score's F1 of the pairs, float64."""
    references = pairs["original"].tolist()
    with quiet_loading():
        scorer = BERTScorer(
            model_type=str(encoder.folder),
            num_layers=encoder.layer,
            idf=idf,
            idf_sents=list(dict.fromkeys(references)) if idf else None,
            nthreads=0,  # else it forks, and a process whose threads compute may then wait for ever
            rescale_with_baseline=rescaled,
            baseline_path=str(encoder.baseline) if rescaled else None,
            lang="en",
            device="cpu",
        )
    limit = scorer._model.config.max_position_embeddings
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, limit)
    return scorer.score(pairs["caption"].tolist(), references)[2].double().numpy()
