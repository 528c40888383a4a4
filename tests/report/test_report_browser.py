# SPDX-License-Identifier: Apache-2.0
"""The page of a report in a real browser: it is opened with a probe that works its controls and writes down what is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import phantom

from monai_n2v.io.nifti import to_volume
from monai_n2v.io.npy import NpySource
from monai_n2v.report.write import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Before all else: faults are gathered from here on.
EARLY = """<script>
window.faults = [];
addEventListener("error", (e) => faults.push(String(e.message || e.target.outerHTML.slice(0, 80))), true);
addEventListener("unhandledrejection", (e) => faults.push(String(e.reason)));
addEventListener("securitypolicyviolation", (e) => faults.push(e.violatedDirective + " " + e.blockedURI));
console.error = console.warn = (...words) => faults.push(words.join(" "));
</script>"""

LATE = """<script>
addEventListener("load", async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const element = (id) => document.getElementById(id);
  const state = () => ({
    wipe: element("pairs").style.getPropertyValue("--wipe"),
    flicker: element("flicker").getAttribute("aria-pressed"),
    noisy: element("noisy").getAttribute("aria-pressed"),
    denoised: element("denoised").getAttribute("aria-pressed"),
    slider: Number(element("wipe").value),
    clip: getComputedStyle(document.querySelector(".top img")).clipPath,
  });
  const press = (key, more = {}) => document.dispatchEvent(new KeyboardEvent("keydown", { key, ...more }));
  const seen = { start: state() };
  const watch = async () => {
    const wipes = new Set();
    for (let i = 0; i < 30; i++) { wipes.add(state().wipe); await wait(100); }
    return [...wipes].sort();
  };
  element("flicker").click();
  seen.flickering = { ...state(), wipes: await watch() };
  element("flicker").click();
  seen.stopped = { ...state(), wipes: await watch() };
  press("f");
  seen.key_f = { ...state(), wipes: await watch() };
  press("d"); seen.key_d = { ...state(), wipes: await watch() };
  press("N"); seen.key_n = state();
  press("d", { ctrlKey: true }); seen.ctrl_d = state();
  element("denoised").click(); seen.click_denoised = state();
  element("wipe").value = 30; element("wipe").dispatchEvent(new Event("input")); seen.slid = state();
  const stage = document.querySelector(".pair"), box = stage.getBoundingClientRect();
  const at = (x, buttons) => ({ clientX: box.left + x * box.width, clientY: box.top + 5, buttons, bubbles: true });
  stage.dispatchEvent(new PointerEvent("pointermove", at(0.9, 0))); seen.hovered = state();
  stage.dispatchEvent(new PointerEvent("pointermove", at(0.75, 1))); seen.dragged = state();
  seen.images = [...document.images].map((image) => {
    const { width, height } = image.getBoundingClientRect();
    return { alt: image.alt, natural: [image.naturalWidth, image.naturalHeight], shown: [width, height] };
  });
  seen.overflow = document.documentElement.scrollWidth - innerWidth;
  seen.background = getComputedStyle(document.body).backgroundColor;
  seen.loads = performance.getEntriesByType("resource").filter((e) => !e.name.startsWith("data:")).map((e) => e.name);
  seen.faults = faults;
  const note = document.createElement("pre");
  note.id = "probe";
  note.textContent = JSON.stringify(seen);
  document.body.append(note);
});
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return path


def opened(browser: str, page: Path, folder: Path, *options: str, width: int = 1200) -> dict:
    """What the probe saw."""
    html = page.read_text()
    assert html.count("<head>") == html.count("</body>") == 1
    probed = folder / "probed.html"
    probed.write_text(html.replace("<title>", EARLY + "<title>").replace("</body>", LATE + "</body>"))
    command = [
        *(browser, "--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder / 'profile'}"),
        *(f"--window-size={width},900", "--virtual-time-budget=60000", "--dump-dom", *options),
        *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
        probed.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    if found is None and done.returncode != 0:
        pytest.skip(f"the browser does not run here: {done.stderr[-300:]}")
    assert found is not None, done.stderr[-2000:]
    seen: dict = json.loads(unescape(found[1]))
    return seen


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    clean, noisy = phantom((40, 48, 12))
    notes = ["The image was <b>interpolated</b>."]
    volume = replace(to_volume(nibabel.Nifti1Image(noisy, np.diag([1, 0.5, 4, 1]))), notes=notes)
    folder = tmp_path_factory.mktemp("report")
    return write_report(folder, "a & <b>", volume, clean[None], {}, losses=[1.0, 0.6, 0.5]).page


@pytest.fixture(scope="module")
def seen(browser, report, tmp_path_factory) -> dict:
    return opened(browser, report, tmp_path_factory.mktemp("browser"))


def test_nothing_fails_and_nothing_is_loaded(seen):
    assert seen["faults"] == []
    assert seen["loads"] == []


def test_every_picture_decodes_and_has_its_true_aspect(seen):
    assert len(seen["images"]) == 9
    aspects = {"axial": 40 / 24, "coronal": 40 / 48, "sagittal": 24 / 48}
    for image in seen["images"]:
        assert min(image["natural"]) > 0, image["alt"]
        name = next(name for name in aspects if name in image["alt"])
        assert image["shown"][0] / image["shown"][1] == pytest.approx(aspects[name], rel=0.02), image["alt"]


def test_flicker_button_and_key(seen):
    assert seen["start"]["wipe"] == "50%"
    for name in ("flickering", "key_f"):
        assert seen[name]["flicker"] == "true"
        assert seen[name]["wipes"] == ["0%", "100%"]
    for name in ("stopped", "key_d"):
        assert seen[name]["flicker"] == "false"
        assert len(seen[name]["wipes"]) == 1


def test_buttons_keys_slider_and_drag_show_what_they_say(seen):
    assert seen["key_d"]["wipe"] == seen["click_denoised"]["wipe"] == "0%"
    assert seen["key_d"]["denoised"] == "true"
    assert seen["key_n"]["wipe"] == "100%"
    assert seen["key_n"]["noisy"] == "true"
    assert seen["ctrl_d"]["wipe"] == "100%", "the browser's own shortcuts stay its own"
    assert seen["slid"]["wipe"] == seen["hovered"]["wipe"] == "30%"
    assert "30%" in seen["slid"]["clip"]
    assert seen["dragged"]["slider"] == pytest.approx(75, abs=1)


@pytest.mark.parametrize("width", [500, 1600])
def test_page_fits_the_window(width, browser, report, tmp_path):
    assert opened(browser, report, tmp_path, width=width)["overflow"] <= 0


def test_dark_where_the_system_is(browser, report, seen, tmp_path):
    dark = opened(
        browser, report, tmp_path, "--force-dark-mode", "--enable-features=WebContentsForceDark:inversion/none"
    )
    light = seen["background"]
    assert sum(map(int, re.findall(r"\d+", light)[:3])) > 600
    if dark["background"] == light:
        pytest.skip("this browser does not take the dark scheme from the command line")
    assert sum(map(int, re.findall(r"\d+", dark["background"])[:3])) < 150


def test_image_of_one_plane(browser, tmp_path):
    clean, noisy = phantom((64, 48))
    volume = NpySource(noisy.shape, noisy.dtype).to_volume(noisy, (1.0, 1.0))
    page = write_report(tmp_path, "x", volume, clean[None], {}).page
    got = opened(browser, page, tmp_path)
    assert got["faults"] == []
    assert [min(image["natural"]) for image in got["images"]] == [48, 48, 48]
    assert got["flickering"]["wipes"] == ["0%", "100%"]
