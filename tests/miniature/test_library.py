"""What the language model reads, to look at."""

from __future__ import annotations

import numpy as np

from mmn_utils.miniature import library
from mmn_utils.miniature.corpus import PROMPT
from mmn_utils.miniature.world import load_world
from mmn_utils.presets import data_path

WORLD = load_world(data_path("miniature", "concepts.yaml"))


def test_a_document_of_each_kind_is_drawn():
    captioned, following, riddle = library.documents(WORLD, np.random.default_rng(0))
    assert captioned.splitlines()[1].startswith(PROMPT)
    assert "\n" not in following
    assert riddle.startswith("what has")
    short = library.documents(WORLD, np.random.default_rng(0), longest=12)
    assert len(short[0]) < len(library.documents(WORLD, np.random.default_rng(0), longest=90)[0])


def test_cards_are_those_of_the_world():
    cards = library.cards(WORLD, np.random.default_rng(0), count=3)
    assert cards["concept"].is_unique
    for row in cards.itertuples():
        assert row.words == ", ".join(WORLD.by_name[row.concept].words)
        assert row.kind == WORLD.by_name[row.concept].supercategory


def test_words_of_evidence_are_counted_by_their_concepts():
    owners = library.owners(WORLD)
    word = WORLD.concepts[0].evidence[0].split()[0]
    having = [c for c in WORLD.concepts if any(word in text.split() for text in c.evidence)]
    assert owners[word] == len(having)
