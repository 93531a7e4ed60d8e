"""Edits of rows against edits of the model: ``python -m tests.benchmarks.bench_edit_trials``.

On a miniature that ships, one edit is found on each of some photographs and tried on it. The
plain way puts each edit into the weights and captions its photograph from the start; the other
puts all edits of a batch in at once, row by row, and follows the old captions as far as they
still hold. Captions are compared before the ratio is printed.
"""

from __future__ import annotations

import argparse

from mmn_utils.datasets import load_dataset
from mmn_utils.interventions.edit import apply
from mmn_utils.interventions.editing import Settings
from mmn_utils.models import load_model
from mmn_utils.neurons.captions import caption_images
from mmn_utils.studies import edits, subjects
from tests.benchmarks.timing import best_times, plainly


def measure(
    model: str = "miniature/llava", photographs: int = 100, tokens: int = 12, repeats: int = 2
) -> tuple[int, int, dict[str, float]]:
    """Time both ways: captions that are alike, edits, and seconds of each way."""
    system = load_model(model)
    data = load_dataset("miniature").sample(photographs, 0)
    captions = subjects.captions_of(system, data, max_new_tokens=tokens, progress=False)
    said = edits.findings.nouns_said(system, data, captions)
    concepts = edits.findings.choose_concepts(system, said, 12)
    first = edits.findings.find_on_first(system, data, said, concepts, 5)
    ground = edits.trials.Ground.of(system, data, first, max_new_tokens=tokens)
    found = edits.findings.find_on_each(system, data, said, ground.rows, 5)
    made = edits.making.edits_of(system, found, Settings())
    images = [finding.photograph.id for finding in found]
    texts = {}

    def row_by_row() -> None:
        texts["rows"] = [caption.text for caption in ground.captions(system, made, images)]

    def one_by_one() -> None:
        texts["weights"] = []
        for edit, finding in zip(made, found, strict=True):
            with apply(system, edit, hash_weights=False, allow_empty=True):
                caption = caption_images(system, [finding.photograph.open()], tokens)[0]
            texts["weights"].append(caption.text)

    ways = {
        "weights": plainly(one_by_one),
        "weights, our products": one_by_one,
        "rows": row_by_row,
    }
    times = best_times(ways, repeats)
    alike = sum(a == b for a, b in zip(texts["rows"], texts["weights"], strict=True))
    return alike, len(made), times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="miniature/llava")
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    alike, made, times = measure(**vars(arguments))
    print(f"{made} edits of {arguments.model}; {alike} captions alike")
    for name, seconds in times.items():
        print(f"{name:22} {1000 * seconds / made:6.1f} ms an edit")
    for name in ("weights", "weights, our products"):
        print(f"{name}, over rows: {times[name] / times['rows']:.1f}")


if __name__ == "__main__":
    main()
