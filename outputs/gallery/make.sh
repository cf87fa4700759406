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

# A drawing with many colors, as WebP.
photo() {
    "$python" - "$1" "$gallery/$2.webp" "$3" <<'PY'
import sys
from PIL import Image

picture = Image.open(sys.argv[1]).convert("RGB")
picture.thumbnail((int(sys.argv[3]), 10_000))
picture.save(sys.argv[2], quality=80, method=6)
PY
}

for recipe in zero-each-module hal mix-noise-everywhere scale-down; do  # long, with many colors
    run "$recipe"
    photo "outputs/$recipe/sheet.png" "$recipe" 2600
done
for recipe in quickstart \
    between-cat-and-dog interconcept film-strip patching when-it-matters three-parts; do
    run "$recipe"
    keep "outputs/$recipe/sheet.png" "$recipe"
done
seeds='seeds=[0, 1, 2, 3, 4, 5, 6, 7]'
"$python" -m ablate run patching --set "$seeds" --out outputs/patching-alone
"$python" -m ablate run patching --set "$seeds" --set 'axes.layer={values: ["*.attn2"]}' \
    --out outputs/patching-together
run plane
keep outputs/plane/sheet.png plane 1000

run noise-and-shrinkage
run modules-that-matter
"$python" -m ablate architecture outputs/modules-that-matter
photo outputs/modules-that-matter/architecture.png architecture 2000

"$python" -m ablate architecture tests/data/configs/flux1-dev --out outputs/flux
photo outputs/flux.png flux 1000

run prompts-seeds-amounts
"$python" -m ablate map outputs/prompts-seeds-amounts
photo outputs/prompts-seeds-amounts/map.png map 1400
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
"$python" -m ablate.training.quality --pictures outputs/samples.png
keep outputs/samples.png samples

# Finders: what the README says of them, about ten minutes.
"$python" -m ablate find breaking-point amount-by-stage --set "$seeds" \
    --set 'axes.amount={linspace: [0, 1, 33]}'
"$python" -m ablate find dose dose-each-block
photo outputs/dose-each-block-dose/find.png dose 880
"$python" -m ablate find search two-edits --budget 150
"$python" -m ablate find screen modules-that-matter
"$python" -m ablate find interactions block-pairs --null max
photo outputs/block-pairs-interactions/find.png interactions 880
"$python" -m ablate find order hal --set 'seeds=[0, 1, 2, 3]'
photo outputs/hal-order/find.png orders 880

# Units: what the README says of them, about half an hour.
units() { "$python" -m ablate units "$@"; }
hidden=transformer_blocks.0.ff.net.0
units selectivity
photo outputs/units-selectivity/selectivity.png selectivity 1200
run selective-units
"$python" -m ablate curves outputs/selective-units --metric embedding
keep outputs/selective-units/curves.png selective-units 1000
units cards outputs/units-selectivity
photo "outputs/units-selectivity/cards/up_blocks.1.attentions.1.$hidden-285.png" card 1400
units selectivity --component clip --out outputs/units-clip
units cards outputs/units-clip
first=up_blocks.1.attentions.0.$hidden second=up_blocks.1.attentions.1.$hidden
units visualize "$second#285" "$first#74" "$first#569" "$first#356" "$first#43" "$first#337" \
    "$second#741" "$second#451" --input latent
units visualize "visual_projection#51" "visual_projection#86" "visual_projection#127" \
    "visual_projection#17" "visual_projection#123" "vision_model.encoder.layers.3.mlp.fc1#410" \
    "text('a rocket')" "text('a panda at night')"
keep outputs/units-visualize/sheet.png visualizations
zero='{zero: {modules: "up_blocks.1.attentions.1.*attn2*"}}'
units atlas up_blocks.1.attentions.1 --seeds 0-1 --edit "$zero" --out outputs/units-atlas-up
photo outputs/units-atlas-up/atlas-compared.png atlas 1600
units atlas vision_model.encoder.layers.2 --component clip --seeds 0-1 --edit "$zero" \
    --out outputs/units-atlas-clip
photo outputs/units-atlas-clip/atlas.png atlas-clip 900

"$python" "$gallery/claims.py"
