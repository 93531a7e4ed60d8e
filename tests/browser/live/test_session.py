"""The live answers against direct computation, and a system that is left as it was."""

from __future__ import annotations

import copy
import io
import json
import os
import threading
from contextlib import ExitStack

import pytest
import torch

from mmn_utils.browser.atlas.build import of_preset as atlas_of_preset
from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.browser.live.session import Session, of_preset
from mmn_utils.browser.live.stack import Intervention
from mmn_utils.browser.live.work import Cancelled, Job
from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.interventions.edit import apply
from mmn_utils.interventions.editing import Settings, make_edit
from mmn_utils.interventions.perturbation import perturb
from mmn_utils.interventions.receipts import weights_hash
from mmn_utils.interventions.scaling import Scaling, scale
from mmn_utils.models.base import ImageTokens
from mmn_utils.models.capture import capture
from mmn_utils.models.pixels import seen_box
from mmn_utils.neurons.attribution import attribution_layers_field
from mmn_utils.neurons.captions import Caption, generate
from mmn_utils.neurons.methods import by_methods
from mmn_utils.neurons.receptive_fields import activation_maps
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target, caption_targets, objective, teacher_forced
from tests.tiny import tiny_images

pytestmark = pytest.mark.usefixtures("untouched")

NEURONS = (Neuron(0, 5), Neuron(1, 77), Neuron(2, 3))
ADDRESSES = [str(neuron) for neuron in NEURONS]
HOSTILE = "<img src=x onerror=alert(1)> $x$ &amp; `y` [own].png"


@pytest.fixture
def session(made):
    return Session(made.model, made.atlas, made.photographs)


def png(image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def first(session) -> tuple[str, str]:
    """Return the first picture and the first noun of its caption."""
    picture = session.picture("0")
    return picture["id"], picture["nouns"][0]


def said(made, image: str, target: Target | None):
    """Caption a picture and read a target's probability, as the system is now."""
    with torch.no_grad():
        prompt = made.model.prompt([made.photographs[int(image)].open()])
        caption = generate(made.model, prompt, 20)[0]
        forced = teacher_forced(made.model, prompt, [target.prefix])
        logits, _ = made.model.forward(forced)
    return caption.text, pytest.approx(float(objective(logits, [target], "probability")[0]))


# --- questions ---------------------------------------------------------------------------


def test_what_the_atlas_knows_is_its_own_answer(session):
    image, noun = first(session)
    questions = [
        ("picture", {"image": image}),
        ("top", {"image": image, "noun": noun, "k": 5}),
        ("card", {"neuron": "L1.u77"}),
        ("similar", {"neuron": "L1.u77"}),
        ("control", {"neuron": "L1.u77"}),
        ("thumbs", {"images": ["0", "2"]}),
        ("filter", {}),
        ("about", {"neurons": ADDRESSES}),
    ]
    for name, args in questions:
        assert session.quick(name, args)
        assert session.ask(name, args) == session.views.ask(name, args)
    assert session.facts() == {**session.views.facts(), "live": True}


def test_every_answer_is_plain(session):
    image, noun = first(session)
    session.own("mine.png", png(tiny_images(1, seed=8)[0]))
    some = {"image": image, "noun": noun}
    questions = {
        "facts": {}, "thumbs": {"images": ["0", "own:mine.png"]}, "picture": {"image": image},
        "top": some, "word": {**some, "noun": "barn"}, "patch": {**some, "patch": 3},
        "maps": {"image": image, "neurons": ADDRESSES}, "exact": {**some, "neurons": ADDRESSES},
    }  # fmt: skip
    for name, args in questions.items():
        answer = session.ask(name, args)
        assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    session.stack.apply(Intervention("ablate", NEURONS), image, noun)
    json.dumps(session.state, allow_nan=False)


def test_heat_maps_are_activations_at_image_tokens(made, session):
    found = session.ask("maps", {"image": "1", "neurons": ADDRESSES})
    expected = activation_maps(made.model, [made.photographs[1].open()], NEURONS)[0]
    assert list(found) == ADDRESSES
    for address, field in zip(ADDRESSES, expected, strict=True):
        assert found[address] == pytest.approx(field.flatten().tolist())


def test_who_wrote_at_a_patch(made, session):
    image, noun = first(session)
    found = session.ask("patch", {"image": image, "noun": noun, "patch": 6, "k": 4})
    prompt = made.model.prompt([made.photographs[0].open()])
    caption = generate(made.model, prompt, 20)[0]
    target = caption_targets(made.model, image, caption)[0]
    fields = attribution_layers_field(made.model, prompt, [target])
    scores = {
        f"L{layer}.u{unit}": float(value)
        for layer, field in fields.items()
        for unit, value in enumerate(field[0, 6])
    }
    best = sorted(scores, key=scores.get, reverse=True)[:4]
    assert found["by"] == "attribution"
    assert [row[0] for row in found["rows"]] == best
    assert [row[1] for row in found["rows"]] == pytest.approx([scores[b] for b in best], rel=1e-3)
    with capture(made.model) as seen:
        made.model.forward(prompt)
    place = made.model.image_tokens.start + 6
    for address, _, sign in found["rows"]:
        neuron = Neuron.parse(address)
        assert sign == (-1 if seen.values[neuron.layer][0, place, neuron.unit] < 0 else 1)
    assert set(found["about"]) == set(best)


def test_who_was_active_at_a_patch_where_no_noun_is_chosen(made, session):
    found = session.ask("patch", {"image": "1", "noun": None, "patch": 2, "k": 3})
    prompt = made.model.prompt([made.photographs[1].open()])
    with capture(made.model) as seen:
        made.model.forward(prompt)
    place = made.model.image_tokens.start + 2
    values = torch.stack([seen.values[layer][0, place] for layer in range(3)])
    top = values.flatten().topk(3)
    units = made.model.sizes.units
    assert found["by"] == "activation"
    expected = [f"L{int(i) // units}.u{int(i) % units}" for i in top.indices]
    assert [row[0] for row in found["rows"]] == expected
    assert [row[1] for row in found["rows"]] == pytest.approx(top.values.tolist(), rel=1e-4)


def test_exact_ablation_is_each_neuron_ablated_alone(made, session):
    image, noun = first(session)
    found = session.ask("exact", {"image": image, "noun": noun, "neurons": ADDRESSES})
    target = session.system.target(image, noun)
    prompt = teacher_forced(made.model, session.system.prompt(image), [target.prefix])
    whole, _ = made.model.forward(prompt)
    for neuron in NEURONS:
        with ablate(made.model, Ablation((neuron,))):
            without, _ = made.model.forward(prompt)
        for kind in ("logit", "probability"):
            change = objective(without, [target], kind) - objective(whole, [target], kind)
            assert found[str(neuron)][kind] == pytest.approx(float(change), abs=1e-5)


# --- pictures and words of one's own -----------------------------------------------------


def test_an_own_picture_is_captioned_and_scored_as_any_other(made, session):
    image = tiny_images(1, seed=3)[0]  # the first of the atlas's pictures, as its file has it
    shown = session.ask("own", {"name": "mine.png", "buffer": png(image)})
    theirs = session.picture("0")
    assert shown["id"] == "own:mine.png"
    assert (shown["caption"], shown["pieces"]) == (theirs["caption"], theirs["pieces"])
    assert (shown["own"], shown["width"], shown["height"]) == (True, image.width, image.height)
    assert session.facts()["pictures"][0] == {"id": shown["id"], "caption": shown["caption"]}
    noun = shown["nouns"][0]
    assert session.quick("top", {"image": shown["id"], "noun": noun})
    found = session.ask("top", {"image": shown["id"], "noun": noun, "k": 5})
    caption = generate(made.model, made.model.prompt([image]), 20)[0]
    target = caption_targets(made.model, "x", caption)[0]
    for method, table in by_methods(made.model, [image], [target], k=5).items():
        addresses = [f"L{row.layer}.u{row.unit}" for row in table.itertuples()]
        assert [row[0] for row in found["rows"][method]] == addresses
        assert [row[1] for row in found["rows"][method]] == pytest.approx(table["score"].tolist())
        assert [row[2] for row in found["rows"][method]] == table["patch"].tolist()
        signs = [-1 if active < 0 else 1 for active in table["activation"]]
        assert [row[3] for row in found["rows"][method]] == signs


def test_names_of_own_pictures_are_kept_and_kept_apart(session):
    one, other = (png(image) for image in tiny_images(2, seed=8))
    ids = [session.own(HOSTILE, content)["id"] for content in (one, other, one)]
    assert ids == [f"own:{HOSTILE}", f"own:{HOSTILE} (2)", f"own:{HOSTILE}"]
    assert [one["id"] for one in session.facts()["pictures"][:2]] == [ids[0], ids[1]]


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_bytes_that_are_no_picture_are_refused_by_name(session, content):
    with pytest.raises(ValueError, match=r"worse\.png cannot be read as an image"):
        session.ask("own", {"name": "worse.png", "buffer": content})
    assert session.pictures.ids == []


def test_a_folder_shows_what_can_be_read_and_names_the_rest(session, tmp_path):
    for name, image in zip("ba", tiny_images(2, seed=8), strict=True):
        image.save(tmp_path / f"{name}.png")
    (tmp_path / "notes <b>.txt").write_text("no picture")
    (tmp_path / ".hidden").write_text("passed over")
    (tmp_path / "inside").mkdir()
    job = Job("folder")
    found = session.folder(str(tmp_path), job)
    assert found.pictures == ("own:a.png", "own:b.png")
    assert list(found.unreadable) == ["notes <b>.txt"]
    assert "cannot be read" in found.unreadable["notes <b>.txt"]
    assert (job.done, job.total) == (3, 3)
    assert [one["caption"] for one in session.facts()["pictures"][:2]] == ["", ""]
    assert not session.quick("picture", {"image": "own:a.png"})
    caption = session.picture("own:a.png")["caption"]
    assert session.quick("picture", {"image": "own:a.png"})
    assert session.facts()["pictures"][0] == {"id": "own:a.png", "caption": caption}
    assert set(session.thumbs(["own:a.png", "0"])) == {"own:a.png", "0"}
    assert session.folder(str(tmp_path)).pictures == found.pictures


def test_folders_without_pictures_are_named(session, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="none of the 1 files"):
        session.folder(str(tmp_path))
    with pytest.raises(ValueError, match="'nowhere'"):
        session.folder("nowhere")
    with pytest.raises(ValueError, match="no folder is named"):
        session.folder("")


def test_reading_a_folder_can_be_cancelled(session, tmp_path):
    for place, image in enumerate(tiny_images(3, seed=8)):
        image.save(tmp_path / f"{place}.png")
    job = Job("folder")
    job.report = lambda: job.cancel() if job.done == 2 else None
    with pytest.raises(Cancelled):
        session.folder(str(tmp_path), job)
    assert job.done == 2
    assert session.pictures.ids == []


def test_names_that_are_no_text_can_be_sent_all_the_same(session, tmp_path):
    tiny_images(1, seed=8)[0].save(tmp_path / "a.png")
    try:
        (tmp_path / "a.png").rename(os.fsdecode(bytes(tmp_path) + b"/\xff.png"))
    except OSError:
        pytest.skip("this file system takes text alone")
    found = session.folder(str(tmp_path))
    assert found.pictures == ("own:?.png",)
    assert session.picture("own:?.png")["width"] > 0


def test_another_word_stands_where_the_caption_has_it_or_its_first_noun(made, session):
    image, noun = first(session)
    system = session.system
    caption, nouns = system.caption(image), system.targets(image)
    assert session.system.target(image, noun.upper()) == nouns[0]
    typed = system.target(image, " barn ")
    assert (typed.noun, typed.prefix) == ("barn", nouns[0].prefix)
    assert typed.token == made.model.tokenizer.encode(" barn")[0]
    system._captions["1"] = _caption(made.model, "A picture of two horses near a red barn.")
    red = system.target("1", "red")
    text = made.model.tokenizer.decode([*red.prefix, red.token])
    assert text.strip().endswith("red")
    assert system.behind(red) == "A picture of two horses near a"
    assert caption.ids[: len(nouns[0].prefix)] == nouns[0].prefix


def _caption(model, text: str) -> Caption:
    return Caption(text, tuple(model.tokenizer.encode(" " + text)))


def test_a_typed_word_is_scored_and_known_afterwards(session):
    image, _ = first(session)
    args = {"image": image, "noun": "barn", "k": 3}
    assert not session.quick("word", args)
    found = session.ask("word", args)
    assert session.quick("word", args)
    assert session.quick("top", args)
    assert session.ask("top", args) == found
    token, whole = found["token"], found["whole"]
    assert "barn".startswith(token.strip())
    assert whole == (token.strip() == "barn")
    assert {len(rows) for rows in found["rows"].values()} == {3}


def test_a_caption_without_a_noun_still_takes_a_word(made, session):
    session.system._captions["1"] = _caption(made.model, "on the")
    assert session.system.target("1", "barn").prefix == ()
    with pytest.raises(ValueError, match="no noun is chosen"):
        session.ask("word", {"image": "1", "noun": " "})


# --- what goes wrong ---------------------------------------------------------------------


def test_without_a_system_the_atlas_still_answers(made):
    session = Session(None, made.atlas, missing="the weights are missing; run: make weights")
    image, noun = first(session)
    assert session.facts()["live"] is False
    assert session.ask("top", {"image": image, "noun": noun})["rows"]
    assert session.state == {"stack": [], "outcome": None}
    live = {
        "maps": {"image": image, "neurons": ADDRESSES}, "word": {"image": image, "noun": "barn"},
        "own": {"name": "x", "buffer": b""}, "undo": {},
        "exact": {"image": image, "noun": noun, "neurons": ADDRESSES},
    }  # fmt: skip
    for name, args in live.items():
        assert session.quick(name, args)
        with pytest.raises(ValueError, match="run: make weights"):
            session.ask(name, args)
    with pytest.raises(ValueError, match=r"Browser\('tiny'\)"):
        Session(None, made.atlas).folder("x")


def test_an_atlas_of_another_system_is_refused(made):
    other = copy.copy(made.model)
    other.revision = "0123"
    with pytest.raises(ValueError, match="0123"):
        Session(other, made.atlas)


def test_without_photographs_the_atlas_s_own_files_are_read(made, session):
    alone = Session(made.model, made.atlas)
    for image in "012":
        assert alone.open(image).tobytes() == session.open(image).tobytes()


def test_a_system_without_a_grid_says_so(made):
    blind = copy.copy(made.model)
    tokens = made.model.image_tokens
    blind.image_tokens = ImageTokens(tokens.start, tokens.count, None, tokens.pixels)
    session = Session(blind, made.atlas, made.photographs)
    image, noun = first(session)
    for name, more in (("maps", {"neurons": ADDRESSES}), ("patch", {"noun": noun, "patch": 0})):
        with pytest.raises(ValueError, match="no place in the picture"):
            session.ask(name, {"image": image, **more})
    rows = session.ask("word", {"image": image, "noun": "barn", "k": 2})["rows"]
    assert {row[2] for some in rows.values() for row in some} == {-1}


def test_numbers_that_are_none_are_not_sent(made, session):
    image, noun = first(session)
    session.system.target(image, noun)
    nan = made.model.act_module(0).register_forward_hook(lambda _m, _i, output: output * torch.nan)
    try:
        for name, more, says in (
            ("exact", {"noun": noun, "neurons": ADDRESSES}, f"logits of picture '{image}' are not"),
            ("maps", {"neurons": ADDRESSES}, f"activations of picture '{image}' are not"),
        ):
            with pytest.raises(ValueError, match=says):
                session.ask(name, {"image": image, **more})
    finally:
        nan.remove()


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("nonsense", {}, "no question 'nonsense'"),
        ("top", {"image": "0"}, "top: missing a required argument: 'noun'"),
        ("card", {"neuron": "L1.u77", "more": 1}, "card: got an unexpected keyword"),
        ("card", {"neuron": "$x$"}, r"'\$x\$' is no neuron"),
        ("maps", {"image": "0", "neurons": ["L9.u1"]}, "L9.u1 is not in this model"),
        ("maps", {"image": "own:gone.png", "neurons": ["L0.u1"]}, "drop its file once more"),
        ("picture", {"image": "<b>"}, "no picture '<b>'"),
        ("patch", {"image": "0", "noun": None, "patch": 16}, "patch 16: the grid has 16"),
        ("word", {"image": "0", "noun": ""}, "no noun is chosen"),
        ("undo", {}, "nothing to undo"),
        ("remove", {"id": 7}, "no intervention 7"),
        ("_picture", {"image": "0"}, "no question"),
        ("open", {"image": "0"}, "no question"),
    ],
)
def test_questions_that_have_no_answer_say_why(session, name, args, said):
    with pytest.raises(ValueError, match=said):
        session.ask(name, args)


def test_a_caption_that_is_no_longer_the_atlas_s_is_noticed(made, session):
    image, noun = first(session)
    session.system._captions[image] = _caption(made.model, f"two birds and a {noun}")
    with pytest.raises(ValueError, match="make atlas PRESET=tiny"):
        session.ask("exact", {"image": image, "noun": noun, "neurons": ADDRESSES})


def test_the_atlas_answers_in_every_thread(made, session):
    expected = session.ask("card", {"neuron": "L1.u77"})
    found, wrong = [], []

    def ask():
        try:
            for _ in range(20):
                found.append(session.ask("card", {"neuron": "L1.u77"}))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(answer == expected for answer in found)


# --- interventions -----------------------------------------------------------------------


def contexts(made, target, picture):
    """The same interventions as ``ASKED``, by hand."""
    model = made.model
    edit = make_edit(model, [picture], [target], "barn", NEURONS, Settings(method="squared"))
    return [
        lambda: scale(model, Scaling(NEURONS[:1], 3)),
        lambda: perturb(model, NEURONS, 1.5, 4, relative=True),
        lambda: apply(model, edit),
        lambda: ablate(model, Ablation(NEURONS[1:])),
    ]


ASKED = [
    Intervention("scale", NEURONS[:1], factor=3),
    Intervention("perturb", NEURONS, sigma=1.5, seed=4),
    Intervention("edit", NEURONS, word="barn", method="squared"),
    Intervention("ablate", NEURONS[1:]),
]


def within(made, session, places):
    """Say caption and probability within some of the interventions, entered in order."""
    image, noun = first(session)
    target = session.system.target(image, noun)
    by_hand = contexts(made, target, made.photographs[0].open())
    with ExitStack() as stack:
        for place in places:
            stack.enter_context(by_hand[place]())
        return said(made, image, target)


@pytest.mark.parametrize("place", range(4))
def test_an_intervention_does_what_its_context_does(made, session, place):
    outcome = session.stack.apply(ASKED[place], *first(session))
    assert (outcome.before.caption, outcome.before.probability) == within(made, session, [])
    assert (outcome.after.caption, outcome.after.probability) == within(made, session, [place])
    assert outcome.before.probability != outcome.after.probability
    assert outcome.changed == (outcome.before.caption != outcome.after.caption)
    rows = dict(outcome.receipt)
    assert rows["weights before"] == rows["weights after"]
    if place in (1, 2):
        assert rows["weights within"] != rows["weights before"]
        assert rows["touched"].endswith("weights")
        assert len(rows["moved by"].split()) == len(NEURONS)
    else:
        assert rows["touched"].endswith("activations")
        assert "weights within" not in rows
    assert rows["neurons"] == " ".join(map(str, ASKED[place].neurons))


def test_a_stack_is_its_contexts_one_in_the_other(made, session):
    for place in range(4):
        outcome = session.stack.apply(ASKED[place], *first(session))
        after = (outcome.after.caption, outcome.after.probability)
        assert after == within(made, session, range(place + 1))
    assert [one["id"] for one in session.state["stack"]] == [1, 2, 3, 4]
    texts = [one["text"] for one in session.state["stack"]]
    assert texts[0] == "scale L0.u5 by 3"
    assert texts[3] == "ablate L1.u77, L2.u3"
    plain = session.state["outcome"]
    assert plain["before"] == {
        "caption": outcome.before.caption, "probability": outcome.before.probability
    }  # fmt: skip


def test_order_counts_where_it_should(session):
    """Twice as much of what was scaled is four times; nothing of it stays nothing."""
    image, noun = first(session)
    twice = Intervention("scale", NEURONS[:1], factor=2)
    session.stack.apply(twice, image, noun)
    four = session.stack.apply(twice, image, noun)
    rows = [text for name, text in four.receipt if name == "mean change"]
    assert float(rows[1]) == pytest.approx(2 * float(rows[0]), rel=0.02)
    session.stack.apply(Intervention("ablate", NEURONS[:1]), image, noun)
    last = session.stack.apply(twice, image, noun)
    assert [text for name, text in last.receipt if name == "mean change"][-1] == "0"


@pytest.mark.parametrize("taken", range(4))
def test_what_is_taken_out_of_the_middle_was_never_there(made, session, taken):
    for asked in ASKED:
        session.stack.apply(asked, *first(session))
    session.ask("remove", {"id": taken + 1})
    left = [place for place in range(4) if place != taken]
    outcome = session.stack.outcome
    assert (outcome.after.caption, outcome.after.probability) == within(made, session, left)
    assert [one.id for one in session.stack.entries] == [place + 1 for place in left]


def test_undo_goes_back_step_by_step_through_removals_too(session):
    image, noun = first(session)
    states = [session.state]
    for asked in ASKED[:2]:
        session.stack.apply(asked, image, noun)
        states.append(session.state)
    session.stack.remove(1)
    for state in reversed(states):
        session.ask("undo", {})
        assert session.state["stack"] == state["stack"]
        if state["outcome"]:
            assert session.state["outcome"]["after"] == state["outcome"]["after"]
    assert session.state == {"stack": [], "outcome": None}
    with pytest.raises(ValueError, match="nothing to undo"):
        session.ask("undo", {})


def test_the_stack_is_told_of_another_picture(made, session):
    session.stack.apply(ASKED[0], *first(session))
    noun = session.picture("1")["nouns"][0]
    outcome = session.stack.look("1", noun)
    target = session.system.target("1", noun)
    with scale(made.model, Scaling(NEURONS[:1], 3)):
        assert (outcome.after.caption, outcome.after.probability) == said(made, "1", target)
    without = session.stack.look("1", None)
    assert (without.before.probability, without.after.probability) == (None, None)
    assert session.stack.entries
    session.stack.undo()
    assert session.stack.look("1", noun) is None


def test_scores_and_maps_are_of_the_untouched_system(session):
    image, noun = first(session)
    maps = session.maps(image, ADDRESSES)
    exact = session.exact(image, noun, ADDRESSES)
    session.stack.apply(Intervention("ablate", NEURONS), image, noun)
    assert session.maps(image, ADDRESSES) == maps
    assert session.exact(image, noun, ADDRESSES) == exact


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda: Intervention("burn", NEURONS), "kind='burn'"),
        (lambda: Intervention("ablate", ()), "no neuron is chosen to ablate"),
        (lambda: Intervention("scale", NEURONS, factor=1), "factor=1 changes nothing"),
        (lambda: Intervention("ablate", (Neuron(9, 1),)), "L9.u1"),
        (lambda: Intervention("perturb", NEURONS, sigma=0), "sigma=0"),
        (lambda: Intervention("edit", NEURONS), "type a word"),
        (lambda: Intervention("edit", NEURONS, word="barn", beta=1e6), "worth no change"),
        (lambda: Intervention("edit", NEURONS, word="barn", method="magic"), "method='magic'"),
    ],
)
def test_what_cannot_be_applied_is_not_kept(session, asked, said):
    image, noun = first(session)
    session.stack.apply(ASKED[0], image, noun)
    before = session.state
    with pytest.raises(ValueError, match=said):
        session.stack.apply(asked(), image, noun)
    assert session.state == before


def test_an_edit_needs_a_noun(session):
    with pytest.raises(ValueError, match="choose the noun first"):
        session.stack.apply(ASKED[2], "0", None)


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_cancelled_intervention_is_off_and_not_kept(session, after):
    image, noun = first(session)
    session.stack.apply(ASKED[1], image, noun)
    state, job = session.state, Job("edit")
    job.report = lambda: job.cancel() if job.done == after else None
    with pytest.raises(Cancelled):
        session.stack.apply(ASKED[2], image, noun, job)
    assert job.done == after
    assert session.state == state
    assert session.stack.look(image, noun).after == session.stack.outcome.after


def test_weights_that_changed_meanwhile_are_noticed(made, session):
    image, noun = first(session)
    session.stack.apply(ASKED[0], image, noun)
    weight = made.model.act_module(0).weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight += 1
        with pytest.raises(RuntimeError, match="load the system again"):
            session.stack.apply(ASKED[0], image, noun)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_texts_stay_as_they_are(session):
    image = session.own(HOSTILE, png(tiny_images(1, seed=8)[0]))["id"]
    with pytest.raises(ValueError, match="no picture"):
        session.views.ask("picture", {"image": HOSTILE})
    assert session.picture(image)["id"] == f"own:{HOSTILE}"
    found = session.ask("word", {"image": image, "noun": "<b>&amp;</b>", "k": 1})
    assert found["rows"]


def test_of_ones_own_picture_what_the_system_sees_is_shown(made, monkeypatch):
    """Heat maps lie over that part, and no more."""
    monkeypatch.setattr(made.model, "seen", lambda size: seen_box(size, "crop"), raising=True)
    session = Session(made.model, made.atlas, made.photographs)
    shown = session.own("wide.png", png(tiny_images(1, seed=8)[0].resize((90, 30))))
    assert (shown["width"], shown["height"]) == (30, 30)


@pytest.mark.weights
def test_the_miniature_says_something_else_without_its_best_neurons(tmp_path):
    preset = tmp_path / "few.yaml"
    preset.write_text("name: few\nsettings: {model: miniature, n_images: 4}\n")
    atlas_of_preset(preset)
    session = of_preset(preset)
    before = weights_hash(session.model)
    image = next(
        one["id"] for one in session.facts()["pictures"] if session.picture(one["id"])["nouns"]
    )
    noun = session.picture(image)["nouns"][0]
    rows = session.ask("top", {"image": image, "noun": noun, "k": 100})["rows"]
    best = tuple(Neuron.parse(row[0]) for row in rows["attribution"])
    outcome = session.stack.apply(Intervention("ablate", best), image, noun)
    assert outcome.after.probability < outcome.before.probability
    assert weights_hash(session.model) == before
    assert Atlas.open("few").facts.revision == session.model.revision


def test_threads_take_turns_with_the_system(made, session):
    """Who asks while a stack is on the system waits, and sees nothing of it."""
    image, noun = first(session)
    maps = session.maps(image, ADDRESSES)
    session.stack.apply(ASKED[3], image, noun)
    found, on = [], threading.Event()
    handle = made.model.layer(0).register_forward_hook(lambda *_: on.set())
    thread = threading.Thread(target=lambda: session.stack.look(image, noun))
    try:
        thread.start()
        assert on.wait(20)
        found.append(session.maps(image, ADDRESSES))
        thread.join(20)
    finally:
        handle.remove()
    assert found == [maps]
    assert session.stack.outcome is not None
