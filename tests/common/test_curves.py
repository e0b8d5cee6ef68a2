"""Curves in files: those that are read, and what is wrong with others."""

import json

import pytest

from common.curves import read_published
from common.errors import UserError
from common.evaluation_figures import plot


@pytest.mark.parametrize("content", [
    {"name": "a", "results": {"bpp": [0.1, 0.2], "psnr-rgb": [30, 31], "ms-ssim-rgb": [0.9, 0.91]}},
    {"name": "a", "description": "", "results": {"bpp": [0.1, 0.2], "psnr": [30, 31],
                                                 "ms-ssim": [0.9, 0.91]}},
    {"a": {"bpp": [0.1, 0.2], "psnr": [30, 31], "ms_ssim": [0.9, 0.91]}, "b": {"source": "c"}},
    # What is not finite is null in JSON, and no point of a plot.
    {"name": "a", "results": {"bpp": [0.1, 0.2, 3], "psnr-rgb": [30, 31, None],
                              "ms-ssim-rgb": [0.9, 0.91, 1.0]}}])
def test_compressais_and_published_curves(tmp_path, content):
    path = tmp_path / "curves.json"
    path.write_text(json.dumps(content))
    for names in None, ("a",):
        curves = read_published(str(path), names)
        assert curves == {"a": {"bpp": [0.1, 0.2], "psnr": [30, 31], "ms_ssim": [0.9, 0.91]}}
    plot(tmp_path / "plot.png", {}, curves, "all")


@pytest.mark.parametrize("content, message", [
    ([], "no curves are there"), ({}, "no curves are there"), ({"a": {"bpp": [1]}}, "no curves"),
    ({"name": "b", "results": {"bpp": [1], "psnr": [1]}}, "has no curve 'a'; it has: b"),
    ({"name": "a", "results": {"bpp": [1]}}, "lacks bpp or psnr"),
    ({"name": "a", "results": {"bpp": [1], "psnr-rgb": [1, 2]}}, "lists of numbers of one length"),
    ({"name": "a", "results": {"bpp": ["x"], "psnr-rgb": [1]}}, "lists of numbers of one length"),
    ({"name": "a", "results": {"bpp": 1, "psnr-rgb": 2}}, "lists of numbers of one length"),
    ({"name": "a", "results": {"bpp": [None], "psnr-rgb": [2]}}, "no point"),
    ({"curves": {"a": 1}}, "no curves are there"), ({"rows": [1]}, "no curves are there")])
def test_files_without_curves(tmp_path, content, message):
    path = tmp_path / "curves.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_published(str(path), ["a"] if "no curves" not in message else None)
