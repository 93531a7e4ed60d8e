"""Do soft prompts speak? Figure 3 and the first row of Table 2, by CLIP as transformers has it.

Per picture: the five tokens nearest to each patch's soft prompt, by cosine with the embeddings,
and to as many random vectors; the mean of 100 times the cosine of picture and text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from transformers import CLIPModel, CLIPProcessor

from tests.independent import raw, words
from tests.independent.stored import A, about, assert_claim, assert_rows, rows_of, some

pytestmark = pytest.mark.weights


@cache
def clip() -> tuple[CLIPModel, CLIPProcessor]:
    folder = raw.MINIATURE / "clip"
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    return model, CLIPProcessor.from_pretrained(folder)


@torch.no_grad()
def clipscore(image: str, texts: Sequence[str]) -> float:
    """The mean over texts of 100 times the cosine of picture and text."""
    model, processor = clip()
    different = list(dict.fromkeys(texts))
    given = processor(
        text=different, images=raw.picture(image), return_tensors="pt", padding=True,
        truncation=True, max_length=model.config.text_config.max_position_embeddings,
    )  # fmt: skip
    out = model(**given)
    found = 100 * (out.text_embeds @ out.image_embeds.T)[:, 0]
    score = dict(zip(different, found.tolist(), strict=True))
    return float(np.mean([score[text] for text in texts]))


@torch.no_grad()
def nearest(vectors: torch.Tensor, k: int) -> list[str]:
    """The ``k`` tokens nearest to each vector, as one text."""
    system = raw.limber()
    found = words.cosines(vectors, system.embeddings).topk(k).indices.tolist()
    return [", ".join(system.text([token]).strip() for token in ids) for ids in found]


def test_soft_prompts_of_figure_3_and_table_2():
    system, facts = raw.limber(), about(A, "A-fig-3")
    rows, n = rows_of(A, "A-fig-3"), facts["n_nearest"]
    images = rows["image"].tolist()
    patches = len(raw.seen(system, images[0]))
    rng = np.random.default_rng(facts["seed"])
    vectors = rng.standard_normal((facts["n_random"], system.embeddings.shape[1]))
    rng.permuted(np.tile(np.arange(patches), (len(images), 1)), axis=1)  # patches, in an order
    drawn = rng.integers(0, len(vectors), (len(images), patches))
    random = nearest(torch.from_numpy(vectors).float(), n)
    own = {}
    for image in some(images, 4):
        own[image] = {
            "prompts": clipscore(image, nearest(raw.seen(system, image), n)),
            "random": clipscore(image, [random[i] for i in drawn[images.index(image)]]),
            "captions": clipscore(image, [system.text(raw.said(system, image)).strip()]),
        }
    assert_rows(rows, own)
    assert_rows(rows_of(A, "A-table-2", "judge == 'clipscore'"), own)


def test_claims_of_figure_3_and_table_2():
    rows, judged = rows_of(A, "A-fig-3"), rows_of(A, "A-table-2", "judge == 'clipscore'")
    assert_claim(A, "A-fig-3-prompts-random", ks_2samp(rows["prompts"], rows["random"]).statistic)
    random, prompts, nouns = (judged[name].mean() for name in ("random", "prompts", "coco"))
    assert_claim(A, "A-table-2-clipscore-prompts", (prompts - random) / (nouns - random))
