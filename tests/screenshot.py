"""Draws ``screenshot.webp``, the image in the README: ``browse`` on the free sample images.

Run ``python tests/screenshot.py``. It needs chromium. Only images that are in the public domain or
under CC0 are shown, so that the image itself is free.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "sample_data"
PICTURE = HERE / "screenshot.webp"
QUERY = "fresh fruit"
WIDTH = 1100
FREE = ("Public domain", "CC0 1.0")


def free_samples() -> list[str]:
    """Paths in ``sample_data`` of the images that anyone may use for anything."""
    rows = (SAMPLES / "ATTRIBUTION.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [row[0] for row in cells if len(row) == 6 and row[4] in FREE]


def main() -> None:
    """Index the free samples with ``pocket``, ask ``browse``, and write the image."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        for name in free_samples():
            target = Path(folder, "photos", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SAMPLES / name, target)
        home = os.environ | {"CLIPSEARCH_DATA_DIR": folder}
        program = [sys.executable, "-m", "clipsearch"]
        subprocess.run(
            [*program, "index", "photos", "--model", "pocket"], cwd=folder, env=home, check=True
        )
        browse = subprocess.Popen(
            [*program, "browse", "photos"], cwd=folder, env=home, stderr=subprocess.PIPE, text=True
        )
        try:
            assert browse.stderr is not None
            url = re.search(r"http://\S+", browse.stderr.readline())
            assert url is not None
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox"]
                )
                viewport = {"width": WIDTH, "height": 900}
                page = chromium.new_page(
                    viewport=viewport, color_scheme="light", device_scale_factor=2
                )
                page.goto(f"{url[0]}?q={QUERY.replace(' ', '+')}", wait_until="networkidle")
                last = page.locator("figure.hit").last.bounding_box()
                assert last is not None
                height = last["y"] + last["height"] + 24  # and nothing of this folder's path
                clip = {"x": 0, "y": 0, "width": WIDTH, "height": height}
                drawn = Image.open(BytesIO(page.screenshot(clip=clip)))
                chromium.close()
        finally:
            browse.terminate()
            browse.wait()
    drawn.convert("RGB").save(PICTURE, quality=85, method=6)
    sys.stdout.write(f"wrote {PICTURE.name}, {PICTURE.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
