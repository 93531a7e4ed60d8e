"""An atlas as large as GPT-J's, asked by DuckDB and by pandas.

``python -m tests.benchmarks.bench_atlas``: 28 x 16384 random neurons of width 4096, of which
the directions are drawn in their reduced form. Each question is asked once with cold tables
and then again; pandas reads the same files, only the columns it needs, and filters. Answers
are compared before times are printed.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mmn_utils.browser.atlas.activity import BINS, EDGES, KINDS, PICTURES, Seen
from mmn_utils.browser.atlas.files import Facts, Parts, kind_of, write_atlas
from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.browser.atlas.words import ENDS, EXACT, NORMS, REDUCED, Decoded
from mmn_utils.neurons.decoding import WORDS
from mmn_utils.neurons.methods import METHODS

BOUNDS = {"open": 1.0, "similar": 0.3}  # seconds; any other question 0.1
QUESTIONS = ("neuron", "image", "search", "suppresses", "elsewhere", "neurons", "similar")


def random_facts(layers: int, units: int, width: int, vocabulary: int, k: int) -> Facts:
    """Describe a random system."""
    return Facts(
        run="benchmark", model="random", revision="none", layers=layers, units=units, width=width,
        vocabulary=vocabulary, grid=(14, 14), pixels=224, edges=EDGES, methods=tuple(METHODS),
        categories=tuple(f"category {i:02}" for i in range(40)), exact_vectors=width <= EXACT,
        seed=0, k=k,
    )  # fmt: skip


def random_parts(facts: Facts, pictures: int, seed: int = 0) -> Parts:
    """Draw everything that an atlas is made of: the worst case for compression."""
    rng = np.random.default_rng(seed)
    count, places = facts.layers * facts.units, facts.grid[0] * facts.grid[1]

    def decoded() -> Decoded:
        tokens = rng.integers(0, facts.vocabulary, (count, WORDS), dtype=np.int32)
        logits = rng.standard_normal((count, WORDS), dtype=np.float32)
        return Decoded(tokens, -np.sort(-logits, axis=1))

    def seen() -> Seen:
        k = min(PICTURES, pictures)
        first = rng.integers(0, pictures, (count, 1))
        chosen = (first + 7 * np.arange(k)) % pictures if k == PICTURES else first + np.arange(k)
        values = -np.sort(-rng.standard_normal((count, k), dtype=np.float32), axis=1)
        patches = rng.integers(0, places, (count, k), dtype=np.int16)
        return Seen((chosen % pictures).astype(np.int32), values, patches)

    directions = rng.standard_normal((count, min(facts.width, REDUCED)), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return Parts(
        decoded={(end, norm): decoded() for end in ENDS for norm in NORMS},
        shown={kind: seen() for kind in KINDS},
        counts=rng.poisson(pictures * places / BINS, (count, BINS)).astype(np.int32),
        overlaps={name: rng.random(count, dtype=np.float32) for name in facts.categories},
        interpretable={end: rng.random(count) < 0.2 for end in ENDS},
        vectors=directions.astype(np.float16),
        **random_tables(facts, pictures, rng),
    )


def random_tables(facts: Facts, pictures: int, rng: np.random.Generator) -> dict:
    """Draw the tables of pictures, two nouns each, and their neuron tables."""
    ids, nouns = [str(i) for i in range(pictures)], [f"noun{i}" for i in range(80)]
    chosen = [(image, str(noun)) for image in ids for noun in rng.choice(nouns, 2, replace=False)]
    pairs = pd.DataFrame(chosen, columns=["image", "noun"])
    pairs["token"] = rng.integers(0, facts.vocabulary, len(pairs))
    rows = len(pairs) * facts.k
    scores = []
    for method in facts.methods:
        table = pairs.loc[pairs.index.repeat(facts.k)].rename(columns={"noun": "target"})
        table = table.assign(
            layer=rng.integers(0, facts.layers, rows).astype("int32"),
            unit=rng.integers(0, facts.units, rows).astype("int32"),
            patch=np.int32(-1),
            score=-np.sort(-rng.random((len(pairs), facts.k), dtype=np.float32), axis=1).ravel(),
            method=method,
            activation=rng.standard_normal(rows, dtype=np.float32),
        )
        scores.append(table.reset_index(drop=True))
    words = [f" word{i}" for i in range(facts.vocabulary)]
    columns = ["image", "category", "supercategory", "crowd", "height", "width", "runs"]
    masks = [(image, "category 00", "all", False, 224, 224, "PPYg10") for image in ids]
    shown = pd.DataFrame({"place": np.arange(pictures, dtype=np.int32), "image": ids})
    shown = shown.assign(
        file=shown["image"] + ".jpg", caption="a caption", human=[["a"]] * pictures
    )
    return {
        "scores": pd.concat(scores, ignore_index=True).drop_duplicates(
            ["method", "image", "target", "layer", "unit"]
        ),
        "pictures": shown,
        "nouns": pairs.assign(place=np.tile([0, 1], pictures), step=3),
        "masks": pd.DataFrame(masks, columns=columns),
        "vocabulary": pd.DataFrame(
            {"token": np.arange(len(words), dtype=np.int32), "text": words,
             "word": [word.strip() for word in words]}
        ),
    }  # fmt: skip


# --- the questions, to both --------------------------------------------------------------


def of_atlas(atlas: Atlas, number: int, image: str, word: str) -> dict[str, Callable]:
    """Ask an atlas; each answer is reduced to what pandas gives, too."""
    (neuron,) = atlas._addresses([number])
    return {
        "neuron": lambda: [token.token for token in atlas.neuron(neuron).writes],
        "image": lambda: len(atlas.image(image).scores),
        "search": lambda: atlas.search(word)["address"].tolist(),
        "suppresses": lambda: atlas.search(word, end="suppresses")["address"].tolist(),
        "elsewhere": lambda: len(atlas.elsewhere(neuron)),
        "neurons": lambda: atlas.neurons(
            method="attribution", interpretable=True, layers=[0, 1]
        )["address"].tolist(),
        "similar": lambda: atlas.similar(neuron).vectors["address"].tolist(),
    }  # fmt: skip


def of_pandas(
    folder: Path, facts: Facts, number: int, image: str, word: str
) -> dict[str, Callable]:
    """Read the columns that a question needs, and filter them."""

    def read(name: str, columns: list[str] | None = None) -> pd.DataFrame:
        return pd.read_parquet(folder / f"{name}.parquet", columns=columns)

    def addresses(numbers) -> list[str]:
        return [f"L{n // facts.units}.u{n % facts.units}" for n in numbers]

    def neuron() -> list[int]:
        cards, plain, scores = read("cards"), read("neurons"), read("scores")
        assert len(plain[plain["neuron"] == number]) == 1
        assert len(scores[scores["neuron"] == number]) >= 0
        return cards[cards["neuron"] == number].iloc[0]["writes"].tolist()

    def picture() -> int:
        viewers, scores = read("viewers"), read("scores")
        place = read("pictures").set_index("image").loc[image, "place"]
        assert len(viewers[viewers["picture"] == place]) >= 0
        return len(scores[scores["image"] == image])

    def search(end: str) -> list[str]:
        words = read("vocabulary")
        tokens = words.loc[words["word"] == word, "token"]
        rows = read("lexicon")
        rows = rows[rows["token"].isin(tokens) & (rows["kind"] == kind_of(end, "none"))]
        rows = rows.sort_values(["logit", "neuron"], ascending=[False, True])
        return addresses(rows.drop_duplicates("neuron")["neuron"].head(50))

    def elsewhere() -> int:
        return int((read("scores", ["neuron"])["neuron"] == number).sum())

    def neurons() -> list[str]:
        rows = read("neurons")
        rows = rows[rows["interpretable"] & rows["layer"].isin([0, 1])].dropna(
            subset="attribution_best"
        )
        rows = rows.sort_values(["attribution_best", "neuron"], ascending=[False, True])
        return addresses(rows["neuron"].head(100))

    def similar() -> list[str]:
        rows = read("vectors")["vector"]
        matrix = np.frombuffer(b"".join(rows), np.float16).reshape(len(rows), -1).astype(np.float32)
        cosines = matrix @ matrix[number]
        cosines[number] = -np.inf
        return addresses(np.argsort(-cosines, kind="stable")[:10])

    return {
        "neuron": neuron, "image": picture, "search": lambda: search("writes"),
        "suppresses": lambda: search("suppresses"), "elsewhere": elsewhere, "neurons": neurons,
        "similar": similar,
    }  # fmt: skip


def memory() -> float:
    """Return the most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(function: Callable) -> tuple[float, object]:
    start = time.perf_counter()
    value = function()
    return time.perf_counter() - start, value


def measure(folder: Path, asked: int = 5, seed: int = 1, with_pandas: bool = True) -> pd.DataFrame:
    """Time each question: seconds of the first, the median and the longest of ``asked`` others.

    ``memory`` is the most that the process has held once the atlas had answered everything.
    ValueError where the two do not answer alike.
    """
    opening, atlas = timed(lambda: Atlas.open(folder))
    facts, rng = atlas.facts, np.random.default_rng(seed)
    count = facts.layers * facts.units
    drawn = [
        (int(rng.integers(count)), str(i), f"word{rng.integers(facts.vocabulary)}")
        for i in range(asked + 1)
    ]
    rows, answers = [], {}
    for name in QUESTIONS:
        times = [timed(of_atlas(atlas, *some)[name]) for some in drawn]
        answers[name] = times[-1][1]
        later = [seconds for seconds, _ in times[1:]]
        rows.append(
            {
                "question": name,
                "first": times[0][0],
                "median": np.median(later),
                "longest": max(later),
            }
        )
    table = pd.DataFrame([{"question": "open", "first": opening}, *rows])
    table["bound"] = [BOUNDS.get(name, 0.1) for name in table["question"]]
    table.attrs["memory"] = memory()
    if with_pandas:
        for name, function in of_pandas(folder, facts, *drawn[-1]).items():
            seconds, value = timed(function)
            if value != answers[name]:
                raise ValueError(f"{name}: pandas says {value!r}, the atlas {answers[name]!r}")
            table.loc[table["question"] == name, "pandas"] = seconds
    atlas.close()
    return table


def disk(folder: Path) -> float:
    """Return the size of an atlas in MB."""
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--units", type=int, default=16384)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=50258)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--write", type=Path, help="write the random atlas into this folder, only")
    parser.add_argument("--read", type=Path, help="ask the atlas in this folder")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.read:
        report(chosen.read)
        return
    facts = random_facts(chosen.layers, chosen.units, chosen.width, chosen.vocabulary, chosen.k)
    if chosen.write:
        write_atlas(chosen.write, facts, random_parts(facts, chosen.pictures))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = write_atlas(Path(folder) / "atlas", facts, random_parts(facts, chosen.pictures))
        print("memory includes the making; --write and then --read keep them apart")
        report(path)


def report(folder: Path) -> None:
    """Print the table, in milliseconds."""
    table = measure(folder)
    shown = table.set_index("question")[["first", "median", "longest", "bound", "pandas"]] * 1e3
    print(shown.round(1).to_string(na_rep=""))
    print(f"milliseconds; {disk(folder):.0f} MB of disk, {table.attrs['memory']:.0f} MB of memory")
    for path in sorted(folder.iterdir()):
        print(f"  {path.name} {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
