"""The heavy stages of notebooks, one shard at a time, for processes on many machines.

    python -m mmn_utils.running shard 04_ablation --preset limber --stage ablation --shard 3/8

A shard computes its share of one table into the cache, where the notebook finds it. A stage
needs those before it whole, so the Snakefile runs them in this order. Shards are counted
from 0; each resumes picture by picture after a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmn_utils.commands import parser_of, refusing
from mmn_utils.exhibits.formats import to_json, write_text
from mmn_utils.presets import Preset, from_root, load_preset, notebook_path
from mmn_utils.running.order import STAGES, Shard
from mmn_utils.running.run import check
from mmn_utils.shards import only_shard, read_shard


def run_shard(notebook: str, preset: str | Path | Preset, stage: str, shard: str) -> Path:
    """Compute one shard of a stage; return the path of its record.

    ValueError for a stage that the notebook does not have, and as ``check``.
    """
    name, chosen = notebook_path(notebook).stem, load_preset(preset)
    index, shards = read_shard(shard)
    known = STAGES.get(name, ())
    if stage not in known:
        raise ValueError(f"stage = {stage!r}: {name} has {', '.join(known) or 'none'}")
    asked = check(name, chosen)
    system, photographs = _loaded(asked)
    with only_shard(stage, (index, shards)):
        COMPUTE[stage](system, photographs, asked)
    record = from_root(Shard(chosen, name, stage, index, shards).record)
    write_text(record, to_json({"notebook": name, "stage": stage, "shard": [index, shards]}))
    return record


def _loaded(asked: dict[str, Any]):
    from mmn_utils.datasets import load_dataset
    from mmn_utils.models import load_model

    system = load_model(asked["model"], device=asked["device"], dtype=asked["dtype"])
    data = load_dataset(asked["dataset"], asked["data_root"] or None)
    return system, data.sample(asked["n_images"], asked["seed"])


def _captions(system, photographs, asked: dict[str, Any]):
    from mmn_utils.studies import subjects

    options = {name: asked[name] for name in ("max_new_tokens", "batch_size") if name in asked}
    return subjects.captions_of(system, photographs, **options)


def _subjects(system, photographs, asked: dict[str, Any]):
    from mmn_utils.studies import subjects

    return subjects.subjects(system, photographs, max_new_tokens=asked["max_new_tokens"])


def _attribution(system, photographs, asked: dict[str, Any]):
    from mmn_utils.studies import ablation, subjects

    some = _subjects(system, photographs, asked)
    counts = asked.get("counts")
    scaled = ablation.scaled_counts(system, counts, asked["counts_of"]) if counts else [0]
    k = asked.get("k") or asked.get("top_units", {}).get("k") or max(scaled)
    ranking = {name: asked[name] for name in ("target", "rank_by")}
    return subjects.top_neurons(system, some, k=k, **ranking)


def _ablation(system, photographs, asked: dict[str, Any]):
    from mmn_utils.studies import ablation

    some = _subjects(system, photographs, asked)
    ks = ablation.scaled_counts(system, asked["counts"], asked["counts_of"])
    names = ("target", "rank_by", "decoder", "max_new_tokens", "seed", "batch_rows")
    value = 0.0 if asked["ablate_value"] == "zero" else asked["ablate_value"]
    where = {"positions": asked["ablate_positions"], "value": value}
    return ablation.ablation_table(system, some, ks, **where, **{n: asked[n] for n in names})


def _concepts(system, photographs, asked: dict[str, Any]):
    from mmn_utils.studies.concepts import scoring

    some = _subjects(system, photographs, asked)
    most = max(asked["k"], *asked["ks"], *asked["focus"]["ks"], asked["decoded"]["neurons"])
    options = {"k": most, "contribution_norm": asked["contribution_norm"]}
    return scoring.top_neurons_of(system, some, readings=scoring.readings_of(system), **options)


COMPUTE: dict[str, Callable] = {
    "captions": _captions,
    "attribution": _attribution,
    "ablation": _ablation,
    "concepts": _concepts,
}


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Compute a shard from the command line; 2 for bad parameters."""
    parser = parser_of("mmn_utils.running shard", __doc__)
    parser.add_argument("notebook", help="its name, such as 04_ablation")
    parser.add_argument("--preset", default="miniature", help="a name or a YAML file")
    parser.add_argument("--stage", required=True, help=", ".join(COMPUTE))
    parser.add_argument("--shard", required=True, help="index/shards, such as 0/8")
    chosen = parser.parse_args(arguments)
    print(run_shard(chosen.notebook, chosen.preset, chosen.stage, chosen.shard))
    return 0
