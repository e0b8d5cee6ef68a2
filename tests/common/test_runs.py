"""Folders of runs, and what is written there."""

import json

import pytest

from common import runs
from common.errors import UserError


@pytest.mark.parametrize("wid, runname", [(0, "a"), (12, "two_layer-rd_lambda=1e-05"), (3, "")])
def test_names_of_folders_round_trip(wid, runname):
    assert runs.split_name(runs.folder_name(wid, runname)) == (wid, runname)


@pytest.mark.parametrize("name", ["wid=-small", "wid=1", "launches", "1-small", "wid=1.5-a"])
def test_folders_of_other_names(name):
    with pytest.raises(UserError, match="not the folder of a run"):
        runs.split_name(name)


def test_a_folder_is_that_of_one_config(tmp_path):
    config = {"seed": 0, "package": "mshyper", "train": {"rd_lambda": 0.01, "log_interval": 5}}
    assert runs.claim(tmp_path, config, begun=False, precision="float32") == {}
    assert runs.claim(tmp_path, config, begun=True) == {}
    # Of a later version, which has a key more and does not use it.
    assert runs.claim(tmp_path, {**config, "data": {"by_size": False}}, begun=True) == {}
    with pytest.raises(UserError, match="data.by_size: None there, True here"):
        runs.claim(tmp_path, {**config, "data": {"by_size": True}}, begun=True)
    other = {"seed": 0, "package": "joint_ar", "train": {"rd_lambda": 0.5, "log_interval": 9}}
    with pytest.raises(UserError, match=r"\(package, train.rd_lambda differ; package: mshyper "
                                        r"there, joint_ar here; .* another folder, or think") as e:
        runs.claim(tmp_path, other, begun=True, may_change=["train.log_interval"],
                   advice=", or think")
    assert "remove" not in str(e.value)
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_what_changes_is_written_down(tmp_path):
    config = {"seed": 0, "train": {"log_interval": 5}}
    runs.claim(tmp_path, config, begun=False, precision="float32")
    for step, interval in ((7, 9), (8, None)):
        wanted = {"seed": 0, "train": {} if interval is None else {"log_interval": interval}}
        changes = runs.claim(tmp_path, wanted, begun=True, may_change=["train.log_interval"])
        assert json.loads((tmp_path / "config.json").read_text()) == config, "not before it is so"
        runs.record_changes(tmp_path, wanted, changes, step=step)
        config = json.loads((tmp_path / "config.json").read_text())
        assert config == wanted
    assert runs.fact(tmp_path, "precision") == "float32"
    first, second = runs.fact(tmp_path, "changes")
    assert first["step"] == 7 and first["config"] == {
        "train.log_interval": {"before": 5, "after": 9}}
    assert second["config"] == {"train.log_interval": {"before": 9, "after": None}}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_a_damaged_record_is_no_permission(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    (tmp_path / "run_info.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        runs.claim(tmp_path, {"seed": 0}, begun=True)
    assert runs.fact(tmp_path, "precision") is None
