"""Questions to an atlas, answered by DuckDB from its files; nothing is loaded beforehand."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import torch

from mmn_utils.browser.atlas.activity import KINDS
from mmn_utils.browser.atlas.cards import Card, Mask, Neighbours, Noun, Picture, Place, Sight, Token
from mmn_utils.browser.atlas.directions import Directions
from mmn_utils.browser.atlas.files import TABLES, Facts, column_of, find_atlas, kind_of, read_facts
from mmn_utils.browser.atlas.words import ENDS, NORMS
from mmn_utils.neurons.decoding import written_vectors
from mmn_utils.neurons.table import Neuron, address, check_neurons, neuron_at

SHORTLIST = 10  # times as many neighbours as asked for get their exact cosine
ORDERS = {"neuron": "neuron", "peak": "peak DESC", "nouns": "nouns DESC"}
_MANY = 1 << 31


class Atlas:
    """An atlas that is open for questions, from any thread; ``facts`` says whose it is."""

    def __init__(self, folder: Path, facts: Facts, connection: duckdb.DuckDBPyConnection) -> None:
        self.folder, self.facts, self._connection = folder, facts, connection
        self._of_thread = threading.local()

    @classmethod
    def open(cls, run: str | Path) -> Atlas:
        """Open a run's atlas, or that of a folder.

        FileNotFoundError, with the command that makes it, where there is none; ValueError for
        one of another format.
        """
        folder = find_atlas(run)
        connection = duckdb.connect(":memory:")
        connection.execute("SET parquet_metadata_cache = true")
        for name in TABLES:
            if name != "vectors":
                connection.read_parquet(str(folder / f"{name}.parquet")).create_view(name)
        return cls(folder, read_facts(folder), connection)

    def close(self) -> None:
        """Close the files."""
        self._connection.close()

    def __enter__(self) -> Atlas:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # --- one neuron, one picture --------------------------------------------------------

    def neuron(self, address: str | Neuron) -> Card:
        """Return the card of a neuron; ValueError for an address that is none or not here."""
        return self.cards([address])[0]

    def cards(self, addresses: Iterable[str | Neuron]) -> list[Card]:
        """Return the cards of neurons, in the order asked for, by one look into each table."""
        neurons = [self._neuron(address) for address in addresses]
        numbers = [self._number(neuron) for neuron in neurons]
        cards, plain = (
            {row["neuron"]: row for row in self._among(table, numbers)}
            for table in ("cards", "neurons")
        )
        columns = [column_of(end, norm) for end in ENDS for norm in NORMS]
        texts = self._texts({i for card in cards.values() for name in columns for i in card[name]})
        places: dict[int, list[Place]] = {number: [] for number in numbers}
        for row in self._among("scores", numbers, "method, rank, image, target"):
            names = ("method", "image", "target", "rank", "score", "patch", "activation")
            places[row["neuron"]].append(Place(*(row[name] for name in names)))
        return [
            self._card(neuron, cards[number], plain[number], texts, places[number])
            for neuron, number in zip(neurons, numbers, strict=True)
        ]

    def _card(self, neuron: Neuron, card: dict, plain: dict, texts: dict, places: list) -> Card:
        return Card(
            neuron=neuron,
            tokens=_tokens(card, texts),
            interpretable=bool(plain["interpretable"]),
            interpretable_suppresses=bool(plain["interpretable_suppresses"]),
            sights={kind: self._sights(card, kind) for kind in KINDS},
            histogram=tuple(card["histogram"]),
            edges=self.facts.edges,
            negative=float(plain["negative"]),
            overlaps=tuple(
                (self.facts.categories[place], value)
                for place, value in zip(card["category"], card["iou"], strict=True)
            ),
            places=tuple(places),
            nouns=int(plain["nouns"]),
            generic=bool(plain["generic"]),
        )

    def image(self, image: str) -> Picture:
        """Return all of a picture; ValueError for one that the atlas does not have."""
        place = self._place(image)
        row = self._one("SELECT * FROM pictures WHERE place = ?", place)
        nouns = self._rows(
            "SELECT noun, token, step FROM nouns WHERE image = ? ORDER BY place", image
        )
        masks = self._rows(
            "SELECT category, supercategory, crowd, height, width, runs FROM masks WHERE image = ?",
            image,
        )
        scores = self._frame(
            "SELECT method, image, target, token, layer, unit, patch, score, activation, rank, "
            "neuron FROM scores WHERE image = ? ORDER BY method, target, rank",
            image,
        )
        viewers = self._frame(
            "SELECT neuron, value FROM viewers WHERE picture = ? ORDER BY value DESC, neuron", place
        )
        return Picture(
            image=image,
            file=row["file"],
            caption=row["caption"],
            human=tuple(row["human"]),
            nouns=tuple(Noun(*values) for values in nouns),
            masks=tuple(Mask(*m[:3], tuple(m[3:5]), m[5]) for m in masks),
            scores=self._addressed(scores),
            viewers=self._addressed(viewers),
        )

    def pictures(self) -> pd.DataFrame:
        """List the pictures in their order: image, file, caption, the annotations' height, width.

        The size is missing where nothing is annotated.
        """
        return self._frame(
            "SELECT image, file, caption, height, width FROM pictures LEFT JOIN (SELECT image, "
            "min(height) AS height, min(width) AS width FROM masks GROUP BY image) USING (image) "
            "ORDER BY place"
        )

    def brief(self, addresses: Iterable[str | Neuron], k: int = 5) -> pd.DataFrame:
        """Say in a row what each neuron is, by one question for many: ``k`` texts of each end.

        Address, layer, unit, writes and suppresses (lists of texts), whether either is
        interpretable (interpretable, interpretable_suppresses), generic, nouns; in the order asked
        for, each once.
        """
        numbers = list(dict.fromkeys(self._number(self._neuron(one)) for one in addresses))
        marks = ", ".join("?" * len(numbers)) or "NULL"
        ends = ", ".join(f"{end}[1:{int(k)}] AS {end}" for end in ENDS)
        found = self._frame(
            f"SELECT neuron, {ends}, interpretable, interpretable_suppresses, generic, nouns "
            f"FROM cards JOIN neurons USING (neuron) WHERE neuron IN ({marks})",
            *numbers,
        ).set_index("neuron", drop=False)  # fmt: skip
        text = self._texts(int(token) for end in ENDS for row in found[end] for token in row)
        for end in ENDS:
            found[end] = [[text[token] for token in row] for row in found[end]]
        return self._addressed(found.loc[numbers].reset_index(drop=True))

    def elsewhere(
        self, address: str | Neuron, image: str | None = None, noun: str | None = None
    ) -> tuple[Place, ...]:
        """List where a neuron is among the top, by method and rank.

        All pictures but ``image``, all nouns but ``noun`` in any case, if given.
        """
        number = self._number(self._neuron(address))
        found = self._rows(
            "SELECT method, image, target, rank, score, patch, activation FROM scores "
            "WHERE neuron = ? "
            "AND (? IS NULL OR image <> ?) AND (? IS NULL OR lower(target) <> lower(?)) "
            "ORDER BY method, rank, image, target",
            number, image, image, noun, noun,
        )  # fmt: skip
        return tuple(Place(*row) for row in found)

    # --- many neurons -------------------------------------------------------------------

    def tops(self, k: int) -> pd.DataFrame:
        """List the ``k`` best of every noun by each method.

        Address, layer, unit, method, image, target, rank, score, patch, activation; by
        picture, noun in the order of the caption, method and rank.
        """
        return self._addressed(
            self._frame(
                "SELECT s.neuron, s.method, s.image, s.target, s.rank, s.score, s.patch, "
                "s.activation FROM scores s JOIN pictures p USING (image) JOIN nouns n "
                "ON n.image = s.image AND n.noun = s.target WHERE s.rank <= ? "
                "ORDER BY p.place, n.place, method, rank",
                k,
            )
        )

    def search(
        self, word: str, *, end: str = "writes", norm: str = "none", n: int = 50
    ) -> pd.DataFrame:
        """Find the neurons that write a word, or suppress it: highest logit first.

        A neuron's row has the token that it has highest among those that read as the word,
        blanks around them and case aside: address, layer, unit, token, text, rank among its
        ten from 1, logit. ValueError where no token of the vocabulary is the word.
        """
        if end not in ENDS or norm not in NORMS:
            raise ValueError(f"end={end!r}, norm={norm!r}: give one of {ENDS} and one of {NORMS}")
        tokens = dict(
            self._rows("SELECT token, text FROM vocabulary WHERE word = ?", word.strip().casefold())
        )
        if not tokens or not word.strip():
            raise ValueError(self._no_token(word))
        # Plain marks, each bound, as only then the files' statistics are looked at.
        marks = ", ".join("?" * len(tokens))
        found = self._frame(
            f"SELECT neuron, token, rank, logit FROM lexicon WHERE token IN ({marks}) AND kind = ? "
            "QUALIFY row_number() OVER (PARTITION BY neuron ORDER BY logit DESC, token) = 1 "
            "ORDER BY logit DESC, neuron LIMIT ?",
            *tokens, kind_of(end, norm), n,
        )  # fmt: skip
        return self._addressed(found.assign(text=found["token"].map(tokens)))

    def neurons(
        self,
        *,
        layers: Iterable[int] | None = None,
        method: str | None = None,
        least_score: float | None = None,
        interpretable: bool | None = None,
        generic: bool | None = None,
        nouns: tuple[int, int] | None = None,
        order: str | None = None,
        n: int = 100,
    ) -> pd.DataFrame:
        """Filter all neurons: one row each, the first ``n``.

        With a ``method`` those that are among the top of some noun by it, the best score first
        and not below ``least_score``; otherwise by ``order``: neuron, peak or nouns. ``nouns``
        are the fewest and the most different nouns. ValueError for a method or an order that
        is none, and for ``least_score`` without a method, whose score it is.
        """
        where, values = ["TRUE"], []
        by = ORDERS.get(order or "neuron")
        if method is not None:
            best = self._best(method)
            # in the scores' own precision, or one that is read off a page lies above itself
            where.append(f"{best} IS NOT NULL AND {best} >= ?::FLOAT")
            values.append(-np.inf if least_score is None else least_score)
            by = f"{best} DESC" if order is None else by
        elif least_score is not None:
            raise ValueError(f"least_score={least_score}: give the method whose score it is, too")
        if by is None:
            raise ValueError(f"order={order!r}: give one of {', '.join(ORDERS)}")
        if layers is not None:
            where.append("list_contains(?, layer)")
            values.append([int(layer) for layer in layers])
        for name, wanted in (("interpretable", interpretable), ("generic", generic)):
            if wanted is not None:
                where.append(f"{name} = ?")
                values.append(bool(wanted))
        where.append("nouns BETWEEN ? AND ?")
        values += nouns or (0, _MANY)
        text = f"SELECT * FROM neurons WHERE {' AND '.join(where)} ORDER BY {by}, neuron LIMIT ?"
        return self._addressed(self._frame(text, *values, n))

    def similar(self, address: str | Neuron, n: int = 10, model=None) -> Neighbours:
        """Find neurons with the nearest write vectors, and with the most strongest pictures shared.

        Cosines are exact (to float16) where the system is narrow enough, see ``words``;
        otherwise approximate, unless its ``model`` is given: then a shortlist of
        ``SHORTLIST`` x n gets the exact ones.
        """
        neuron = self._neuron(address)
        number = self._number(neuron)
        table = self._directions.nearest(number, n if model is None else SHORTLIST * n)
        if model is not None:
            table = self._exact(model, neuron, table)
        return Neighbours(
            vectors=self._addressed(table.head(n)),
            exact=self.facts.exact_vectors or model is not None,
            pictures=self._addressed(self._sharing(number, n)),
        )

    def neighbours(self, addresses: Iterable[str | Neuron], n: int = 10) -> Neighbours:
        """Find for many neurons what ``similar`` finds without a model.

        Both tables have a column more, ``of``: the address of the neuron that a row is like.
        """
        numbers = [self._number(self._neuron(address)) for address in addresses]
        marks = ", ".join("?" * len(numbers)) or "NULL"
        sharing = self._frame(
            "WITH pairs AS (SELECT neuron AS of, unnest(strongest) AS picture FROM cards "
            f"WHERE neuron IN ({marks})) SELECT of, neuron, count(*)::INTEGER AS shared "
            "FROM pairs JOIN viewers USING (picture) WHERE neuron <> of GROUP BY of, neuron "
            "QUALIFY row_number() OVER (PARTITION BY of ORDER BY shared DESC, neuron) <= ? "
            "ORDER BY of, shared DESC, neuron",
            *numbers, n,
        )  # fmt: skip
        near = self._directions.nearest_to_each(numbers, n)
        vectors, pictures = (
            self._addressed(table.assign(of=self._addresses(table["of"])))
            for table in (near, sharing)
        )
        return Neighbours(vectors, self.facts.exact_vectors, pictures)

    def check_model(self, model) -> None:
        """Raise ValueError for a model that the atlas was not made from."""
        if model.revision != self.facts.revision:
            raise ValueError(
                f"the atlas is of {self.facts.model} {self.facts.revision}, the model is "
                f"{model.name} {model.revision}; give the one that it was made from"
            )

    # --- inside -------------------------------------------------------------------------

    def _exact(self, model, neuron: Neuron, table: pd.DataFrame) -> pd.DataFrame:
        """Put exact cosines into a shortlist, and sort by them."""
        self.check_model(model)
        numbers = table["neuron"].tolist()
        some = written_vectors(model, [neuron, *map(self._at, numbers)]).float()
        cosines = torch.cosine_similarity(some[:1], some[1:]).cpu().numpy()
        table = table.assign(cosine=cosines)
        return table.sort_values(["cosine", "neuron"], ascending=[False, True], ignore_index=True)

    def _sharing(self, number: int, n: int) -> pd.DataFrame:
        card = self._one("SELECT strongest FROM cards WHERE neuron = ?", number)
        marks = ", ".join("?" * len(card["strongest"]))
        return self._frame(
            f"SELECT neuron, count(*)::INTEGER AS shared FROM viewers WHERE picture IN ({marks}) "
            "AND neuron <> ? GROUP BY neuron ORDER BY shared DESC, neuron LIMIT ?",
            *card["strongest"], number, n,
        )  # fmt: skip

    @cached_property
    def _directions(self) -> Directions:
        return Directions(self.folder / "vectors.parquet")

    @cached_property
    def _images(self) -> list[str]:
        return [row[0] for row in self._rows("SELECT image FROM pictures ORDER BY place")]

    @cached_property
    def _place_of(self) -> dict[str, int]:
        return {image: place for place, image in enumerate(self._images)}

    def _among(self, table: str, numbers: Sequence[int], order: str = "neuron") -> list[dict]:
        """Read a table's rows of some neurons."""
        marks = ", ".join("?" * len(numbers)) or "NULL"
        cursor = self._cursor.execute(
            f"SELECT * FROM {table} WHERE neuron IN ({marks}) ORDER BY {order}", numbers
        )
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _texts(self, tokens: Iterable[int]) -> dict[int, str]:
        """Look up how tokens read."""
        some = sorted(set(tokens))
        marks = ", ".join("?" * len(some)) or "NULL"
        return dict(
            self._rows(f"SELECT token, text FROM vocabulary WHERE token IN ({marks})", *some)
        )

    def _sights(self, card: dict[str, Any], kind: str) -> tuple[Sight, ...]:
        lists = (card[kind], card[f"{kind}_value"], card[f"{kind}_patch"])
        return tuple(Sight(self._images[i], v, p) for i, v, p in zip(*lists, strict=True))

    def _neuron(self, address: str | Neuron) -> Neuron:
        neuron = address if isinstance(address, Neuron) else neuron_at(self.facts, str(address))
        check_neurons([neuron], self.facts.layers, self.facts.units)
        return neuron

    def _number(self, neuron: Neuron) -> int:
        return neuron.layer * self.facts.units + neuron.unit

    def _at(self, number: int) -> Neuron:
        return Neuron(*divmod(int(number), self.facts.units))

    def _addresses(self, numbers: Iterable[int]) -> list[str]:
        return [address(self.facts, self._at(number)) for number in numbers]

    def _place(self, image: str) -> int:
        if image not in self._place_of:
            near = difflib.get_close_matches(str(image), self._images, n=1) or self._images[:1]
            raise ValueError(
                f"no picture {image!r} among the {len(self._images)} of the atlas of "
                f"{self.facts.run}, which has {near[0]!r}; a larger n_images takes more"
            )
        return self._place_of[image]

    def _best(self, method: str) -> str:
        """Return the column of a method's best scores; only the atlas's own names pass."""
        if method not in self.facts.methods:
            raise ValueError(f"method={method!r}: give one of {', '.join(self.facts.methods)}")
        return f"{method}_best"

    def _no_token(self, word: str) -> str:
        start = word.strip().casefold()
        begins = self._rows(
            "SELECT DISTINCT word FROM vocabulary WHERE word <> '' AND starts_with(?, word) "
            "ORDER BY length(word) DESC, word LIMIT 3",
            start,
        )
        hint = ", ".join(repr(row[0]) for row in begins) or "another word"
        return f"no token of the vocabulary reads {word!r}; a word of several begins with: {hint}"

    def _addressed(self, table: pd.DataFrame) -> pd.DataFrame:
        """Put address, layer and unit before the other columns of a table with numbers."""
        number = table["neuron"].to_numpy(np.int64)
        layer, unit = np.divmod(number, self.facts.units)
        rest = table.drop(columns=["layer", "unit"], errors="ignore")
        columns = {"address": self._addresses(number), "layer": layer, "unit": unit}
        front = pd.DataFrame(columns, index=table.index)
        return pd.concat([front, rest.drop(columns="neuron")], axis=1)

    @property
    def _cursor(self) -> duckdb.DuckDBPyConnection:
        """A thread's own connection to the same files, as one is for one thread at a time."""
        if not hasattr(self._of_thread, "cursor"):
            self._of_thread.cursor = self._connection.cursor()
        return self._of_thread.cursor

    def _frame(self, text: str, *values) -> pd.DataFrame:
        return self._cursor.execute(text, values).df()

    def _rows(self, text: str, *values) -> list[tuple]:
        return self._cursor.execute(text, values).fetchall()

    def _one(self, text: str, *values) -> dict[str, Any]:
        cursor = self._cursor.execute(text, values)
        names = [column[0] for column in cursor.description]
        return dict(zip(names, cursor.fetchone(), strict=True))


def _tokens(card: dict, texts: dict[int, str]) -> dict[tuple[str, str], tuple[Token, ...]]:
    """Give the tokens of a card their texts."""
    columns = {(end, norm): column_of(end, norm) for end in ENDS for norm in NORMS}
    return {
        key: tuple(
            Token(token, texts[token], logit)
            for token, logit in zip(card[name], card[f"{name}_logit"], strict=True)
        )
        for key, name in columns.items()
    }
