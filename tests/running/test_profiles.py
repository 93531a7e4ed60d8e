"""The profiles that schedule notebooks: every key an option, a dry run where one is possible."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from snakemake.cli import get_argument_parser

from mmn_utils.models.limber import PROJECTION
from mmn_utils.plain_yaml import load_yaml
from mmn_utils.presets import PRESETS, ROOT, load_preset
from mmn_utils.running.order import STAGES, VARIABLES, keep, read_presets, shards_of
from mmn_utils.running.stages import COMPUTE, read_shard, run_shard

PROFILES = sorted(path.parent.name for path in ROOT.glob("profiles/*/config.yaml"))
OPTIONS = {text for action in get_argument_parser()._actions for text in action.option_strings}


def executor_of(profile: str) -> str:
    return load_yaml(ROOT / "profiles" / profile / "config.yaml")["executor"]


def test_the_profiles_are_those_of_the_three_places():
    assert {name: executor_of(name) for name in PROFILES} == {
        name: name for name in ("local", "slurm", "kubernetes")
    }


@pytest.mark.parametrize("profile", PROFILES)
def test_every_key_is_an_option_of_snakemake_or_of_its_plug_in(profile):
    given = load_yaml(ROOT / "profiles" / profile / "config.yaml")
    own = f"--{executor_of(profile)}-"
    assert not [
        key for key in given if f"--{key}" not in OPTIONS and not f"--{key}".startswith(own)
    ]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_dry_run_plans_shards_before_notebooks(profile):
    executor = executor_of(profile)
    if executor != "local" and find_spec(f"snakemake_executor_plugin_{executor}") is None:
        pytest.skip(f"snakemake-executor-plugin-{executor} is not installed")
    command = [sys.executable, "-m", "snakemake", "-n", "--workflow-profile", f"profiles/{profile}"]
    if profile == "kubernetes":
        command += ["--default-storage-prefix", str(ROOT)]
    command += ["--config", "preset=ci", "shards=2"]
    paths = {"PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for rule in ("notebook_ci_04_ablation", "shard_ci_04_ablation_ablation_1_of_2"):
        assert rule in done.stdout + done.stderr


def test_stages_need_all_shards_of_the_one_before():
    shards = shards_of([(load_preset("ci"), "04_ablation")], 3)
    assert [(one.stage, one.index) for one in shards] == [
        (stage, index) for stage in STAGES["04_ablation"] for index in range(3)
    ]
    assert shards[0].needs == []
    assert shards[8].needs == [one.record for one in shards[3:6]]
    assert shards_of([(load_preset("ci"), "04_ablation")], 1) == []
    assert {stage for some in STAGES.values() for stage in some} == set(COMPUTE)
    with pytest.raises(ValueError, match="shards = 0"):
        shards_of([], 0)


def test_jobs_are_told_every_folder_that_a_preset_or_a_loader_reads_from_the_environment():
    texts = [path.read_text() for path in PRESETS.glob("*.yaml")]
    asked = {name for text in texts for name in re.findall(r"\$\{?([A-Z_]+)", text)}
    assert asked | {"COCO_ROOT", PROJECTION, "MMN_CACHE", "HF_HOME"} <= set(VARIABLES)


@pytest.mark.parametrize("text", ["1", "2/2", "-1/2", "a/b", "0/0"])
def test_bad_shards_are_refused(text):
    with pytest.raises(ValueError, match="shard"):
        read_shard(text)


def test_a_stage_that_a_notebook_does_not_have_is_refused():
    with pytest.raises(ValueError, match="stage = 'ablation': 06_editing has captions"):
        run_shard("06_editing", "ci", "ablation", "0/2")


def test_presets_are_read_by_name_and_by_path_with_blanks(tmp_path):
    (tmp_path / "a b").mkdir()
    path = tmp_path / "a b" / "own.yaml"
    path.write_text("name: own\n")
    found = read_presets(f"ci '{path}'")
    assert [one.address for one in found] == ["ci", str(path)]
    with pytest.raises(ValueError, match="own is given twice"):
        read_presets(f"'{path}' '{path}'")


def test_outputs_are_copied_to_where_another_machine_expects_them(tmp_path):
    wanted = tmp_path / "storage" / "notebooks" / "choices.yaml"
    keep([str(wanted)])
    assert wanted.read_bytes() == (ROOT / "notebooks" / "choices.yaml").read_bytes()
    with pytest.raises(FileNotFoundError, match="was not made"):
        keep([str(tmp_path / "nothing.json")])
