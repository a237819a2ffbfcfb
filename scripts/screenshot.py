"""The first screen of a report's page as a small png, for the docs; needs the extra `browser` and Chromium.

python scripts/screenshot.py report/index.html docs/images/report.png 1400 900
python scripts/screenshot.py report/index.html docs/images/report-narrow.png 420 1400
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

page_file, picture, width, height = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
chromium = shutil.which("chromium") or shutil.which("chromium-browser")
with sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(page_file.as_uri())
    page.screenshot(path=picture)
    browser.close()
Image.open(picture).convert("P", palette=Image.Palette.ADAPTIVE, colors=200).save(picture, optimize=True)
print(f"{picture}: {picture.stat().st_size // 1000} kB")
