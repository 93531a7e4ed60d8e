"""Every loader on folders as they were published, and on such folders that are not whole."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmn_utils.models import MissingParts, load_model
from mmn_utils.models.limber import read_projection
from mmn_utils.models.weights import POINTER, Tensors, read_tensors
from tests.models.llava.tiny import tiny_whole
from tests.models.mplug_owl2.tiny import network
from tests.models.published import LAYOUTS, beit, gptj, projection
from tests.models.test_instructblip import tiny_whole as tiny_instructblip
from tests.tiny import tiny_hub_beit, tiny_language_model
from tests.tiny_gated import tiny_llama

# System: the part whose weights are broken, which a system has all by the loader's parameter.
PARTS = [
    ("limber", "language_model"),
    ("limber", "encoder"),
    ("llava", "checkpoint"),
    ("llava", "vision_tower"),
    ("llava15", "checkpoint"),
    ("instructblip", "checkpoint"),
    ("mplug_owl2", "checkpoint"),
]
LANGUAGE_MODELS = {  # as it was before it was stored in half precision
    "limber": lambda: tiny_language_model(7, vocabulary=50400),
    "llava": lambda: tiny_llama(6, vocabulary=400),
    "llava15": lambda: tiny_llama(5, vocabulary=400),
    "instructblip": lambda: tiny_instructblip(5).language_model,
    "mplug_owl2": lambda: network(seed=5),
}


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """Hand a system's parts out as they were published, each made once; not to be changed."""
    home = tmp_path_factory.mktemp("published")
    return cache(lambda system: LAYOUTS[system](home / system))


@pytest.fixture
def copied(laid_out, tmp_path):
    """Hand a system's parts out to be broken."""

    def copies(system: str) -> dict:
        parts = laid_out(system)
        for path in parts.values():
            (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
        return {name: tmp_path / path.name for name, path in parts.items()}

    return copies


@pytest.mark.parametrize("system", list(LAYOUTS))
def test_the_published_layout_is_read(laid_out, system):
    model = load_model(system, **laid_out(system), dtype="float32")
    rounded = LANGUAGE_MODELS[system]().half()
    rounded = (rounded.bfloat16() if system == "limber" else rounded).float().state_dict()
    for name, tensor in model.language_model.state_dict().items():
        assert torch.allclose(tensor, rounded[name], atol=1e-6), name


def test_what_sees_is_read_too(laid_out):
    model = load_model("limber", **laid_out("limber"))
    assert same(model.encoder.beit, tiny_hub_beit(7))
    assert torch.equal(model.projection.weight, projection()["weight"])
    model = load_model("llava15", **laid_out("llava15"))
    assert model.name == "llava15"
    assert same(model.vision, tiny_whole(5).half().float().model.vision_tower)
    model = load_model("instructblip", **laid_out("instructblip"))
    assert same(model.queries.qformer, tiny_instructblip(5).half().float().qformer)


def same(one, other) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# --- what is not whole ------------------------------------------------------------------


def weights_of(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])


def point(folder: Path) -> Path:
    file = weights_of(folder)[-1]
    file.write_bytes(POINTER + b"v1\noid sha256:4d3c\nsize 16797512\n")
    return file


def cut(folder: Path, left: float = 0.5) -> Path:
    file = weights_of(folder)[-1]
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * left)])
    return file


def empty(folder: Path) -> Path:
    return cut(folder, 0)


def drop_shard(folder: Path) -> Path:
    *left, file = weights_of(folder)
    file.unlink()
    return file if left else folder


def change(folder: Path, how) -> Path:
    file = weights_of(folder)[0]
    safe = file.suffix == ".safetensors"
    state = load_file(file) if safe else torch.load(file, weights_only=True)
    how(state)
    (save_file if safe else torch.save)(state, file)
    return folder


MATRICES = (".fc1.weight", "down_proj.weight", "fc_in.weight", "intermediate.dense.weight")


def a_matrix(state) -> str:
    return next(name for name in sorted(state) if name.endswith(MATRICES))


FAULTS = {  # fault: (what breaks a part's folder, what is said beside the file's or folder's name)
    "pointer": (point, r"git-LFS pointer.*git lfs pull"),
    "truncated": (cut, r"cut off.*fetch it again"),
    "empty": (empty, r"is empty; fetch it again"),
    "no shard": (drop_shard, r"hf download|pass \w+=FOLDER"),
    "no tensor": (
        lambda folder: change(folder, lambda state: state.pop(a_matrix(state))),
        r"(lacks 1 weights of.*fetch or save it again|give those that.*(1 missing|Missing key))",
    ),
    "extra tensor": (
        lambda folder: change(folder, lambda state: state.update(stray=torch.ones(2))),
        r"(has 1 tensors that .*fetch or|give those that.*(1 not known|Unexpected key)).*",
    ),
    "other shape": (
        lambda folder: change(folder, lambda s: s.update({a_matrix(s): torch.ones(2, 2)})),
        r"(of another shape.*fetch or save|give those that.*(of another shape|size mismatch))",
    ),
}


@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize(("system", "part"), PARTS)
def test_a_folder_that_is_not_whole_is_refused(copied, system, part, fault):
    facts = copied(system)
    break_it, says = FAULTS[fault]
    named = break_it(facts[part])
    with pytest.raises(ValueError, match=re.compile(says, re.DOTALL)) as error:
        load_model(system, **facts)
    assert named.name in str(error.value), str(error.value)


def test_a_folder_without_any_weights_says_so(copied):
    facts = copied("llava15")
    for file in weights_of(facts["checkpoint"]):
        file.unlink()
    (facts["checkpoint"] / "model.safetensors.index.json").unlink()
    with pytest.raises(MissingParts, match="it is without weights"):
        load_model("llava15", **facts)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (POINTER + b"v1\n", "git-LFS pointer"),
        (b"", "is empty"),
        (b"<!doctype html>", "cut off or no file of PyTorch's, at 15 bytes"),
    ],
    ids=["pointer", "empty", "page"],
)
def test_a_projection_that_was_not_fetched_is_refused(tmp_path, content, says):
    file = tmp_path / "proj.ckpt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        read_projection(file)
    assert str(file) in str(error.value)


def test_no_code_in_a_file_is_run(tmp_path):
    file, mark = tmp_path / "proj.ckpt", tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (mark,)

    torch.save({"weight": Evil()}, file)
    with pytest.raises(ValueError, match=r"cannot be read as tensors.*fetch it again"):
        read_projection(file)
    assert not mark.exists()


@pytest.mark.parametrize("repository", [beit, gptj])
@pytest.mark.parametrize("bin", [True, False])
def test_tensors_are_read_one_at_a_time(tmp_path, repository, bin):
    made = repository()
    made.bin, made.shards = bin, 2
    files = weights_of(made.write(tmp_path / "hub"))
    tensors = Tensors(files)
    assert set(tensors) == set(made.state)
    assert all(torch.equal(tensors[name], made.state[name]) for name in tensors)
    assert set(read_tensors(files[0])) | set(read_tensors(files[1])) == set(made.state)
