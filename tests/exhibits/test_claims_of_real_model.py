"""What the claims on the real language model make of rows that are counted by hand."""

from __future__ import annotations

from io import StringIO

import pandas as pd
import pytest

from mmn_utils.datasets.published import published_claim
from mmn_utils.exhibits.formats import to_csv
from mmn_utils.exhibits.judging import Judged, judge_claim, read_numbers
from mmn_utils.exhibits.texts import load_texts, render

pytestmark = pytest.mark.usefixtures("few_redraws")
NOTEBOOK, MANY = "08_real_model", 40
TEXTS = load_texts(NOTEBOOK)


def judged(exhibit: str, id: str, rows: pd.DataFrame, **facts) -> Judged:
    """Judge a claim by rows as they are once stored."""
    stored = read_numbers(StringIO(to_csv(rows)))
    return judge_claim(TEXTS[exhibit].claims[id], published_claim(id), stored, facts)


def shares(**ways: float) -> pd.DataFrame:
    """Photographs by ways: the share, a little more or less each time, of what each way does."""
    rows = [
        (f"p{i}", way, share + (0.02 if i % 2 else -0.02) * (way in sorted(ways)[:1]))
        for i in range(MANY)
        for way, share in ways.items()
    ]
    return pd.DataFrame(rows, columns=["image", "way", "share"])


LISTS = {"picture": 0.3, "picture_random": 0.1, "last_token": 0.5, "words": 0.2, "snapped": 0.3}


@pytest.mark.parametrize(
    ("id", "value", "holds"),
    [
        ("picture", 0.2, "yes"),
        ("last", 0.2, "yes"),
        ("words", -0.1, "no"),
        ("snapped", 0.0, "no"),
        ("sign", 0.25, "yes"),
        ("norm", -0.2, "no"),
    ],
)
def test_each_claim_on_decoding_has_its_own_two_ways_or_readings(id, value, holds):
    signed = shares(**LISTS).assign(reading="signed")
    plain = shares(**dict.fromkeys(LISTS, 0.05)).assign(reading="plain")
    normed = shares(**dict.fromkeys(LISTS, 0.1)).assign(reading="normed")
    rows = pd.concat([plain, signed, normed])
    found = judged("C-real-decoding", f"C-real-decoding-{id}", rows)
    assert found.estimate.value == pytest.approx(value, abs=1e-6)
    assert found.estimate.n == MANY
    assert found.holds.word == holds


@pytest.mark.parametrize(("trained", "holds"), [(0.8, "yes"), (0.2, "no")])
@pytest.mark.parametrize("control", ["untrained_projection", "untrained_encoder"])
def test_a_trained_part_is_judged_against_the_untrained_on_the_same_photographs(
    control, trained, holds
):
    rows = pd.DataFrame({
        "source": "caltech101", "name": "ant", "image": [f"{i}.jpg" for i in range(MANY)],
        "trained": [float(i < MANY * trained) for i in range(MANY)],
        "untrained_projection": 0.0, "untrained_encoder": 0.0,
    })  # fmt: skip
    rows[control] = [float(i >= MANY * 0.8) for i in range(MANY)]
    id = f"C-real-quality-{control.removeprefix('untrained_').replace('projection', 'trained')}"
    found = judged("C-real-quality", id, rows)
    assert found.estimate.value == pytest.approx(trained - 0.2)
    assert found.holds.word == holds


@pytest.mark.parametrize(("id", "value", "holds"), [("words", 0.3, "yes"), ("snapped", -0.1, "no")])
def test_early_layers_are_compared_photograph_by_photograph(id, value, holds):
    ways = shares(picture=0.5, words=0.2, snapped=0.6)
    rows = ways.pivot(index="image", columns="way", values="share").reset_index()
    found = judged("C-real-depth", f"C-real-depth-{id}", rows)
    assert found.estimate.value == pytest.approx(value, abs=1e-6)
    assert found.holds.word == holds


@pytest.mark.parametrize(("n_generic", "holds"), [(0, "not tested"), (3, "yes")])
def test_generic_units_hide_nothing_where_there_are_none(n_generic, holds):
    rows = shares(picture=0.1, without_generic=0.3, picture_random=0.0)
    found = judged("C-real-generic", "C-real-generic-hidden", rows, n_generic=n_generic)
    assert found.holds.word == holds


def test_exact_ablation_is_judged_against_attribution_not_against_chance():
    rows = shares(picture=0.3, picture_random=0.0, last_token=0.1, exact=0.2, exact_random=0.0)
    found = judged("C-real-exact", "C-real-exact-writes", rows)
    assert found.estimate.value == pytest.approx(-0.1, abs=1e-6)
    assert found.holds.word == "no"


def test_larger_inputs_and_longer_training_have_rows_of_their_own():
    sizes = shares(picture=0.2, picture_random=0.0, larger=0.5, larger_random=0.0)
    states = shares(first=0.4, last=0.1).rename(columns={"way": "when"}).head(2 * 30)
    rows = pd.concat([sizes, states], ignore_index=True)  # the photographs' names are the same
    more = judged("C-real-tokens", "C-real-tokens-more", rows)
    assert (more.estimate.value, more.estimate.n) == (pytest.approx(0.3, abs=1e-6), MANY)
    assert more.holds.word == "yes"
    longer = judged("C-real-tokens", "C-real-tokens-longer", rows)
    assert (longer.estimate.value, longer.estimate.n) == (pytest.approx(-0.3, abs=1e-6), 30)
    assert longer.holds.word == "no"


@pytest.mark.parametrize(("kept", "count", "holds"), [(0.95, 400, "yes"), (1.0, 2, "no"),
                                                      (0.5, 400, "no")])  # fmt: skip
def test_nine_of_ten_take_an_interval_that_says_so(kept, count, holds):
    rows = pd.DataFrame({"image": [f"p{i}" for i in range(count)], "way": "bfloat16",
                         "same": kept, "same_caption": 1.0})  # fmt: skip
    others = rows.assign(way="float16", same=0.0)
    found = judged("C-real-numerics", "C-real-numerics-bfloat16", pd.concat([rows, others]))
    assert found.estimate.value == pytest.approx(kept)
    assert found.holds.word == holds


# --- what is read out ---------------------------------------------------------------------

SAYS = {"yes": "holds", "no": "does not hold", "open": "is open", "not tested": "was not tested"}


def read(name: str, verdict: str, **facts) -> str:
    """Read a text out where every claim has one verdict."""
    words = {
        "says": lambda _: SAYS[verdict],
        "verdict": lambda _: verdict,
        "estimate": lambda _: 0.25,
        "picture": "scene",
        "pictures": "scenes",
        "k": 20,
    }
    return " ".join(render(TEXTS[name].reading, {**words, **facts}, name, markdown=True).split())


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("yes", "So the input is part of the answer."),
        ("no", "So an unusual input is not what keeps"),
        ("open", "Whether the input is part of the answer stays open."),
        ("not tested", "Whether the input is part of the answer stays open."),
    ],
)
def test_what_follows_of_the_input_is_what_was_found(verdict, said):
    early = dict.fromkeys(("picture", "words", "snapped", "last_token"), 0.5)
    text = read("C-real-depth", verdict, early=early, readable=pd.DataFrame({"share": [0.1, 0.4]}))
    assert said in text
    beginnings = ("So the input is", "So an unusual", "Whether the input")
    assert [text.count(one) for one in beginnings] == [said.startswith(one) for one in beginnings]
    assert f"less {SAYS[verdict]}" in text


def test_what_the_encoder_knows_is_set_beside_what_is_said():
    probed = pd.DataFrame(
        [("lite", "last", "one", 0.9), ("vit", "10", "one", 0.95), ("raw", "last", "one", 0.3),
         ("lite", "last", "two", 0.8)], columns=["encoder", "layer", "source", "share"],
    )  # fmt: skip
    beside = pd.DataFrame(
        [("one", True, 0.45, 0.9), ("two", True, 0.8, 0.8)],
        columns=["source", "trained", "captions", "probe"],
    )
    text = read("C-real-encoders", "", probed=probed, beside=beside, named=str.title)
    assert "One: the best probe is that of vit, layer 10, with 95.0%" in text
    assert "the worst, of raw, has 30.0%" in text
    assert "One, trained encoder: the probe tells 90.0%, captions through the projection" in text
    assert "name 45.0%: 50% of what a linear reading of the encoder has" in text
    assert "name 80.0%, no less" in text


@pytest.mark.parametrize(("count", "said"), [(0, "No unit is in half"), (1, "1 unit is in half"),
                                             (7, "7 units are in half")])  # fmt: skip
def test_generic_units_are_counted_in_words_that_fit(count, said):
    left = dict.fromkeys(("picture", "without_generic", "without_generic_random"), 0.5)
    text = read("C-real-generic", "no" if count else "not tested", n_generic=count, left=left)
    assert text.startswith(said)
    assert ("does not hold" in text) == bool(count)
    assert "was not tested" not in text


def test_systems_are_compared_whether_they_differ_or_are_absent():
    unlike = pd.DataFrame({"id": ["A"], "statement": ["Units write."], "x": ["yes"], "y": ["no"]})
    counts = {"x": {"yes": 1, "not tested": 2}, "y": {"no": 1}}
    text = read("C-systems", "no", counts=counts, differ=[("x", "y", 3, 2, unlike)], absent=["z"])
    assert "`x`: 1 hold, 0 do not, 0 are open, 2 were not tested." in text
    assert "both tested 3 claims; of 2 the verdict is the same. It is another of:" in text
    assert "Units write. x: yes; y: no." in text
    assert text.endswith("Not there: z.")
    alike = read("C-systems", "no", counts=counts, differ=[("x", "y", 3, 3, unlike[:0])], absent=[])
    assert "another" not in alike
    assert "Not there" not in alike
