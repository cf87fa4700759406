#!/usr/bin/env bash
# Makes the README's pictures from recipes, on the bundled model. About ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
gallery=outputs/gallery

run() { "$python" -m ablate run "$1" --out "outputs/$1"; }

# A picture as a small PNG: few colors are enough for flat emoji, and a third of the bytes.
keep() {
    "$python" - "$1" "$gallery/$2.png" "${3:-}" <<'PY'
import sys
from PIL import Image

picture = Image.open(sys.argv[1]).convert("RGB")
if sys.argv[3]:
    width = int(sys.argv[3])
    size = (width, round(picture.height * width / picture.width))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
picture.quantize(255, kmeans=1, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
PY
}

for recipe in quickstart zero-each-module hal mix-noise-everywhere scale-down \
    amount-by-stage between-cat-and-dog interconcept film-strip amount-and-between patching \
    when-it-matters three-parts; do
    run "$recipe"
    keep "outputs/$recipe/sheet.png" "$recipe"
done
run plane
keep outputs/plane/sheet.png plane 1400

run modules-that-matter
"$python" -m ablate architecture outputs/modules-that-matter
keep outputs/modules-that-matter/architecture.png architecture 2200

"$python" -m ablate architecture tests/data/configs/flux1-dev --out outputs/flux
keep outputs/flux.png flux 1100

run prompts-seeds-amounts
"$python" -m ablate map outputs/prompts-seeds-amounts
keep outputs/prompts-seeds-amounts/map.png map 1500
"$python" -m ablate curves outputs/hal
keep outputs/hal/curves.png curves 1200
"$python" -m ablate animate outputs/mix-noise-everywhere --over amount --out "$gallery/mix-noise.webp"

"$python" - outputs/zero-each-module/report.html "$gallery/report.png" <<'PY'
import io, shutil, sys
from pathlib import Path
from PIL import Image
from playwright.sync_api import sync_playwright

with sync_playwright() as web:
    browser = web.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.goto(Path(sys.argv[1]).resolve().as_uri())
    page.select_option("select", label="embedding in floors")
    page.wait_for_timeout(1000)
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
shot.quantize(255, kmeans=1, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
PY
"$python" -m ablate.bundled.quality --pictures outputs/samples.png
keep outputs/samples.png samples
