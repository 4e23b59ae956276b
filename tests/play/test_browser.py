"""The page to play with in a real Chromium, where there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("selenium", reason="`pip install selenium` drives a browser")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver"),
]
RUNS = os.environ.get("M2O_PLAY_RUNS", "").split()  # trained ones, for the picture
PICTURE = os.environ.get("M2O_PLAY_PICTURE")  # where the picture of docs/ goes


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("play")
    if not RUNS:
        for seed in (1, 2):
            words = f"train --variant hms --data digits --steps 2 --batch-size 4 --seed {seed} --run {seed} --quiet"
            subprocess.run([sys.executable, "-m", "m2o_fast.cli", *words.split()], cwd=folder, check=True)
    command = [sys.executable, "-u", "-m", "m2o_fast.cli", "play", *(RUNS or ["1", "2"]), "--port", "0"]
    server = subprocess.Popen(command, cwd=os.getcwd() if RUNS else folder, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
    assert found is not None
    yield found[0]
    server.terminate()
    server.wait(timeout=60)


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,920"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get(address)
    settled(driver, "")
    yield driver
    driver.quit()


def result(driver: Any) -> str:
    return driver.find_element(By.CSS_SELECTOR, "#results img").get_attribute("src") or ""


def settled(driver: Any, before: str) -> str:
    """The translation, once it is another one."""
    WebDriverWait(driver, 60).until(lambda _: result(driver).startswith("data:image/png") and result(driver) != before)
    return result(driver)


def test_pick_draw_slide_compare(page: Any, address: str, tmp_path: Path) -> None:
    assert len(page.find_elements(By.CSS_SELECTOR, "#results > figure")) == len(RUNS or [1, 2])
    WebDriverWait(page, 60).until(lambda _: len(page.find_elements(By.CSS_SELECTOR, "#looks button")) == 12)
    looks = page.find_elements(By.CSS_SELECTOR, "#looks button")
    seen = result(page)
    looks[2].click()
    seen = settled(page, seen)
    assert page.find_element(By.ID, "seed").get_attribute("value") == "3"
    assert looks[2].get_attribute("aria-pressed") == "true"

    assert "--run" in page.find_element(By.CSS_SELECTOR, "#results figcaption").text
    WebDriverWait(page, 60).until(lambda _: page.find_elements(By.CSS_SELECTOR, "#slides input"))
    page.find_element(By.CSS_SELECTOR, "#slides input").send_keys(Keys.ARROW_RIGHT * 12)  # by keyboard
    seen = settled(page, seen)
    page.find_element(By.ID, "as-b").click()
    looks[5].click()
    seen = settled(page, seen)
    WebDriverWait(page, 60).until(
        lambda _: len(page.find_elements(By.CSS_SELECTOR, "#results figure:first-child .tiles img")) == 8
    )
    if PICTURE:
        page.save_screenshot(PICTURE)

    canvas = page.find_element(By.ID, "canvas")
    webdriver.ActionChains(page).move_to_element(canvas).click_and_hold().move_by_offset(40, 60).release().perform()
    seen = settled(page, seen)
    Image.new("RGB", (80, 40), (200, 30, 30)).save(tmp_path / "photo.png")
    page.find_element(By.ID, "file").send_keys(str(tmp_path / "photo.png"))
    seen = settled(page, seen)
    webdriver.ActionChains(page).move_to_element(canvas).click_and_hold().move_by_offset(10, 5).release().perform()
    seen = settled(page, seen)
    assert page.execute_script("const { width, height } = arguments[0]; return [width, height]", canvas) == [80, 40]
    page.find_element(By.ID, "file").send_keys(str(Path(__file__)))  # no image
    WebDriverWait(page, 60).until(lambda _: "not an image of a known format" in page.find_element(By.ID, "status").text)
    assert "known format" in page.find_element(By.CSS_SELECTOR, "#results figcaption").text
    assert not result(page) and not page.find_element(By.CSS_SELECTOR, "#results a").get_attribute("href")
    page.find_element(By.CSS_SELECTOR, "#samples button").click()
    seen = settled(page, seen)
    page.find_element(By.ID, "as-b").click()
    page.find_element(By.CSS_SELECTOR, "#references button").click()
    seen = settled(page, seen)
    assert page.execute_script("return state.look.reference !== undefined")
    page.find_element(By.ID, "direction").send_keys("color to gray")
    WebDriverWait(page, 60).until(lambda _: not page.find_element(By.ID, "look").is_displayed())
    settled(page, seen)
    assert page.execute_script("return state.look.reference === undefined")  # it was of another domain

    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith((address, "data:", "blob:")) for url in asked), asked
    errors = [entry for entry in page.get_log("browser") if "400" not in entry["message"]]  # but the file above
    assert errors == []


def test_readable_on_a_phone(page: Any) -> None:
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}  # windows are not as narrow
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert page.execute_script("return window.innerWidth") == 360
    rows = "[...document.querySelectorAll('.slide')]"
    assert page.execute_script(f"return {rows}.length && {rows}.every((row) => row.scrollWidth <= row.clientWidth)")
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    for control in page.find_elements(By.CSS_SELECTOR, "button, select, .button"):
        assert not control.is_displayed() or control.size["height"] >= 30
