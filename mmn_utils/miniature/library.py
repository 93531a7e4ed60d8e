"""What the language model reads, to look at: a document of each kind, cards, shared words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mmn_utils.miniature import corpus
from mmn_utils.miniature.world import World

KINDS = (corpus.caption_document, corpus.following_document, corpus.riddle_document)


def documents(world: World, draw: np.random.Generator, longest: int = 24) -> list[str]:
    """Draw a document of each of ``KINDS``, with no more than ``longest`` phrases each."""
    options = corpus.CorpusOptions(longest=longest)
    return [kind(world, options, draw).strip() for kind in KINDS]


def cards(world: World, draw: np.random.Generator, count: int = 4) -> pd.DataFrame:
    """Draw cards of concepts: concept, kind, words, evidence."""
    drawn = draw.choice(np.array(world.concepts, dtype=object), count, replace=False)
    rows = [(c.name, c.supercategory, ", ".join(c.words), ", ".join(c.evidence)) for c in drawn]
    return pd.DataFrame(rows, columns=["concept", "kind", "words", "evidence"])


def owners(world: World) -> pd.Series:
    """Count for each word of all evidence to how many concepts it belongs, by the word."""
    pairs = {(word, c.name) for c in world.concepts for text in c.evidence for word in text.split()}
    return pd.DataFrame(sorted(pairs), columns=["word", "concept"]).groupby("word").size()
