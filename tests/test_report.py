"""The report: its pictures, and the page in headless Chromium."""

import collections
import html.parser
import json
import math
import pathlib
import re
import shutil

import numpy as np
import pytest

import configs
from benchmarks import classical, complexity, figures, rate_distortion, report, versus_jpeg
from common import coding, export, images, metrics, zoo
from common.errors import UserError

MODEL = zoo.DEFAULT
POINTS = {"bpp": [0.1, 0.3, 0.9, 2.0], "psnr": [25, 29, 34, 39], "ms_ssim": [0.9, 0.95, 0.98, 0.99]}
needs_model = pytest.mark.skipif(MODEL not in export.released_models(),
                                 reason=f"needs {MODEL} of the zoo")


def curve(kind, factor, **about):
    points = [dict(zip(POINTS, values)) for values in zip(*POINTS.values())]
    return {"kind": kind, **about,
            "points": [{**point, "bpp": factor * point["bpp"]} for point in points]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo):
    """Results of a benchmark, and a photograph of its data set with a name that needs escaping."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "photographs").mkdir()
    images.write(folder / "photographs" / "a&b.png", photo[100:276, 150:374])
    curves = {
        "<ours>": curve("model", 0.5, fingerprints=["0123456789"]),
        "jpeg": curve("codec", 1, title="JPEG", library="Pillow", settings={"optimize": True}),
        "vtm": curve("published", 0.25, source="a paper", note="as published")}
    curves["jpeg"]["points"][0]["ms_ssim"] = None  # of images that are too small
    (folder / "curves.json").write_text(json.dumps({
        "date": "2026-11-21", "dataset": str(folder / "photographs"), "images": ["a&b.png"],
        "versions": {"numpy": "1.26.4"}, "cores": 2, "anchor": "jpeg", "range": [26, 33],
        "curves": curves}))
    return folder


# --- Without a browser ------------------------------------------------------------------------


def test_photographs_by_name_and_by_data_set(folder):
    dataset = str(folder / "photographs")
    assert [source.name for source in report.find_images(["a&b", "photos/validation"], dataset)
            ] == ["a&b.png", "coffee.png", "flower.jpg"]
    with pytest.raises(UserError, match="kodim99.*nor is it an image of"):
        report.find_images(["kodim99"], dataset)


@pytest.mark.parametrize("height, width, shown", [
    (600, 1000, (512, 768)), (1000, 600, (768, 512)), (100, 2000, (100, 768)), (5, 7, (5, 7))])
def test_large_pictures_are_cropped_to_the_middle(height, width, shown):
    rows, columns = np.mgrid[:height, :width]
    picture = report.crop(np.stack([rows, columns, rows], axis=-1))
    assert picture.shape[:2] == shown
    np.testing.assert_allclose(
        picture.mean(axis=(0, 1))[:2], [(height - 1) / 2, (width - 1) / 2], atol=0.5)


def test_odd_names_stay_text(folder, photo):
    name, image = "</option>\"'<b>&amp;  $title", photo[:8, :8]
    row = {"bytes": 1, "bpp": 0.5}
    text = report.page(report.read_results(folder), [
        (name, [[report.Picture("Original", image), report.Picture(name, image, "", row)]])])
    found = collections.defaultdict(list)

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            found[tag].append(dict(attributes))

    Parser().feed(text)
    assert [each["data-name"] for each in found["img"]] == ["Original", name]
    # What a selector says is a picture's name, to the last space.
    assert [each["value"] for each in found["option"]] == ["Original", name] * 2
    assert found["img"][1]["alt"] == f"{name}: {name}" and "b" not in found
    # Without weights for LPIPS, no column is empty.
    assert "LPIPS" not in text
    # A model of one rate has no slider.
    assert not any(each.get("name") == "rate" for each in found["input"])


@needs_model
def test_classical_codecs_have_no_more_bytes_than_the_model(photo, monkeypatch, tmp_path):
    monkeypatch.setattr(configs, "LPIPS_WEIGHTS", tmp_path / "missing.npz")
    image, model = photo[:192, :256], zoo.load(MODEL)
    level = model.levels.at_quality(60)
    original, ours, *others = report.code(
        image, MODEL, model, ["jpeg", "avif"], rate_distortion.load_judges(), level)
    ntc = coding.compress(model, image, level=level)
    assert ours.row["bytes"] == len(ntc) and original.row == {}
    np.testing.assert_array_equal(ours.image, coding.decompress(model, ntc))
    for picture, name in zip(others, ("jpeg", "avif"), strict=True):
        each = classical.find(name)
        assert picture.row["bytes"] <= len(ntc) < len(each.encode(image, int(picture.quality) + 1))
        assert picture.row["psnr"] == metrics.psnr(image, picture.image)


def test_a_model_with_levels_codes_at_the_quality_asked_for(
        levels_model, photo, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(configs, "LPIPS_WEIGHTS", tmp_path / "missing.npz")
    path = tmp_path / "page.html"
    model, image = zoo.load(levels_model), images.read(folder / "photographs/a&b.png")
    for arguments, qualities in (["--quality", "20"], ["20"]), ([], ["10", "40", "70"]):
        report.main(["--results", str(folder), "--model", str(levels_model), *arguments,
                     "--images", "a&b", "--codecs", "--output", str(path)])
        text = path.read_text()
        for quality in ("20", "10", "40", "70"):
            level = model.levels.at_quality(float(quality))
            size = len(coding.compress(model, image, level=level))
            assert (f"<td>{size:,}</td>" in text) == (quality in qualities)
            assert (f"<td>{quality}</td>" in text) == (quality in qualities)
        assert text.count("data-title=") == len(qualities)
        assert ('name="rate"' in text) == (len(qualities) > 1)


@pytest.mark.parametrize("arguments, message", [
    (["--results", "nowhere"], "benchmarks.rate_distortion writes it"),
    (["--output", "nowhere/page.html"], "there is no folder nowhere"),
    (["--images", "kodim99"], "kodim99"),
    (["--model", "none-1"], "no model 'none-1'"),
    (["--model", "mshyper-small_bb-2", "--quality", "20"], "quality needs a model with levels"),
])
def test_mistakes_are_one_line(arguments, message, folder, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        report.main(["--results", str(folder), "--output", str(tmp_path / "page.html"), *arguments])
    error, = capsys.readouterr().err.splitlines()
    assert message in error and not (tmp_path / "page.html").exists()


# --- In a browser -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, which records its console and what it asks the network for."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = map(shutil.which, ("chromium", "chromedriver"))
    if not (chromium and driver):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1200,900"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def page(folder, photo) -> pathlib.Path:
    """A page with one photograph at two rates, which needs no model."""
    image = photo[100:276, 150:374]
    rates = []
    for i, size in enumerate((6789, 12345)):
        row = {"bytes": size, "bpp": 0.3 + 0.2 * i, "psnr": 30.126, "ms_ssim": 0.9}
        rates.append([report.Picture("Original", image),
                      report.Picture(MODEL, image // 2 + i, f"{30 * i}", row),
                      report.Picture("JPEG", 255 - image, "7", row),
                      report.Picture("AVIF", image, "9", row)])
    path = folder / "page.html"
    path.write_text(report.page(report.read_results(folder), [("a&b.png", rates)]))
    return path


@pytest.fixture
def opened(browser, page):
    """The page, freshly loaded."""
    browser.get(page.as_uri())
    return browser


def element(browser, selector):
    return browser.find_element("css selector", selector)


def texts(browser, selector):
    return [each.text for each in browser.find_elements("css selector", selector)]


def style(browser, selector, name):
    return browser.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]",
        selector, name)


def divider(browser):
    """Where the divider is and where the left picture ends, in pixels from the left."""
    stage, line = (element(browser, selector).rect for selector in (".stage", ".divider"))
    clip = re.fullmatch(r"inset\(0px (calc\(.*\)|[\d.]+%|[\d.]+px) 0px 0px\)",
                        style(browser, ".stage img.left", "clip-path"))[1]
    hidden = [float(number) for number in re.findall(r"[\d.]+(?=%)", clip)]
    percent = abs(hidden[0] - sum(hidden[1:]))
    return line["x"] + line["width"] / 2 - stage["x"], stage["width"] * (1 - percent / 100)


def test_page_loads_without_errors_and_without_network(opened):
    assert opened.title.startswith("Rate and distortion on")
    assert [entry for entry in opened.get_log("browser") if entry["level"] != "INFO"] == []
    requests = [message["params"]["request"]["url"] for message in (
        json.loads(entry["message"])["message"] for entry in opened.get_log("performance"))
        if message["method"] == "Network.requestWillBeSent"]
    assert requests and all(url.startswith(("file:", "data:")) for url in requests)
    assert opened.execute_script(
        "return [...document.images].every((image) => image.naturalWidth === 224)")


def test_tables_and_plots_show_the_results(opened, folder):
    results = report.read_results(folder)
    rows = rate_distortion.compare(results["curves"], "jpeg", (26, 33))
    assert texts(opened, ".results tbody th") == ["vtm", "<ours>"]
    assert texts(opened, ".results tbody tr")[1].startswith("<ours> 4 -50.0 26.0 to 33.0")
    assert rows[1]["bd_rate"] == pytest.approx(-50)
    assert "from 26 to 33 dB" in element(opened, ".results p").text
    numbers = [row for row in texts(opened, ".comparison tbody tr") if row]  # of one rate
    assert len(numbers) == 4 and numbers[0] == "Original"
    assert numbers[2] == "JPEG 12,345 0.500 30.13 0.9000 7"
    # Text of the plots is text, in the colour of the page.
    for plot in opened.find_elements("css selector", ".plot"):
        assert {"bits per pixel", "<ours>", "jpeg", "vtm"} <= {
            each.text for each in plot.find_elements("css selector", "svg text")}
    assert style(opened, ".plot text", "fill") == style(opened, "body", "color")
    assert "a paper" in element(opened, "dl").text


def test_divider_follows_the_pointer_and_the_keys(opened):
    from selenium.webdriver import ActionChains, Keys

    slider, width = element(opened, ".stage input"), element(opened, ".stage").rect["width"]
    assert divider(opened) == pytest.approx((width / 2, width / 2), abs=1)
    ActionChains(opened).move_to_element(slider).click_and_hold().move_by_offset(
        round(-width / 4), 5).release().perform()
    assert divider(opened) == pytest.approx((width / 4, width / 4), abs=3)
    slider.send_keys(Keys.END)
    assert divider(opened) == pytest.approx((width, width), abs=1)
    slider.send_keys(*[Keys.ARROW_LEFT] * 3)
    at = divider(opened)[0]
    assert 0.8 * width < at < width and divider(opened) == pytest.approx((at, at), abs=1)
    assert slider.get_attribute("aria-valuetext").endswith(" % JPEG")
    # What has the focus is to be seen.
    assert style(opened, ".stage", "outline-style") == "solid"


def test_selectors_switch_the_pictures(opened):
    from selenium.webdriver.support.ui import Select

    def shown():
        return [element(opened, f".stage img.{side}").get_attribute("data-name")
                for side in ("left", "right")], texts(opened, ".stage .label")

    visible = "return [...document.images].filter(" \
              "(image) => getComputedStyle(image).visibility === 'visible').length"
    assert shown() == (["JPEG", MODEL], ["JPEG", MODEL])
    left, right = (Select(element(opened, f"select[name={side}]")) for side in ("left", "right"))
    left.select_by_visible_text("Original")
    right.select_by_visible_text("AVIF")
    assert shown() == (["Original", "AVIF"], ["Original", "AVIF"])
    assert opened.execute_script(visible) == 2
    # One picture on both sides is whole.
    right.select_by_visible_text("Original")
    assert opened.execute_script(visible) == 1
    assert style(opened, ".stage img.left", "clip-path") == "none"


def test_slider_goes_from_rate_to_rate(opened):
    from selenium.webdriver import Keys

    def shown():
        pictures = opened.execute_script(
            "return [...document.images].filter((image) => "
            "getComputedStyle(image).visibility === 'visible').map((image) => image.dataset.rate)")
        rows = [row for row in texts(opened, ".comparison tbody tr") if "," in row]
        return pictures, element(opened, "output").text, rows

    dial = element(opened, "input[name=rate]")
    pictures, title, rows = shown()
    assert pictures == ["1", "1"] and title == "quality 30, 0.50 bpp"
    assert len(rows) == 3 and all("12,345" in row for row in rows)
    dial.send_keys(Keys.ARROW_LEFT)
    pictures, title, rows = shown()
    assert pictures == ["0", "0"] and title == "quality 0, 0.30 bpp"
    assert dial.get_attribute("aria-valuetext") == title
    assert len(rows) == 3 and all("6,789" in row for row in rows)


@pytest.mark.parametrize("width", [360, 1400])
def test_page_fits_any_window_in_light_and_in_dark(browser, page, width):
    papers = set()
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme}]})
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False})
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        papers.add(style(browser, "body", "background-color"))
    assert len(papers) == 2
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_figures(folder, levels_model, tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "LPIPS_WEIGHTS", tmp_path / "missing.npz")
    figures.main(["--results", str(folder), "--model", str(levels_model),
                  "--perceptual", str(levels_model), "-o", str(tmp_path)])
    text = (tmp_path / "rate_distortion.svg").read_text()
    assert "jpeg" in text and "vtm" in text  # comments name what is drawn
    # Published curves are of Kodak; and an anchor may be one.
    assert "yang2023" not in (tmp_path / "decoding.svg").read_text()
    results = report.read_results(folder)
    for anchor in ("jpeg", "vtm"):
        figures.draw_decoding(
            tmp_path / "kodak.svg", results | {"dataset": "kodak", "anchor": anchor})
        text = (tmp_path / "kodak.svg").read_text()
        # Nobody knows the FLOPs of vtm.
        assert "yang2023-two-layer-sga" in text and "<!-- vtm -->" not in text
    width, height = images.read(tmp_path / "crops.png").shape[1::-1]
    assert width > 4.5 * figures.SIDE and height > figures.SIDE
    width, height = images.read(tmp_path / "perceptual.png").shape[1::-1]
    assert width > 2 * figures.SIDE and height > 2 * figures.SIDE


@needs_model
def test_decoding_flops_are_those_of_the_models_config():
    found = json.loads(complexity.OUTPUT.read_text())["configs"]["mshyper/configs/residual.py"]
    parts = [found["parts"][name]["flops_per_pixel"] for name in ("synthesis", "hyper_synthesis")]
    assert decoding_flops("mshyper") == pytest.approx(sum(parts))
    assert math.isnan(figures.decoding_flops([])) and math.isnan(figures.decoding_flops(["0123"]))


def test_models_of_the_zoo_have_decoding_flops():
    for name in versus_jpeg.trained_for_mse():
        assert math.isfinite(decoding_flops(name)), "run benchmarks.complexity --page"


def decoding_flops(name):
    return figures.decoding_flops([export.fingerprint(export.find(name))])
