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

for recipe in quickstart zero-each-module zero-by-role hal mix-noise-everywhere scale-down \
    amount-by-stage between-cat-and-dog plane interconcept film-strip amount-and-between; do
    run "$recipe"
    keep "outputs/$recipe/sheet.png" "$recipe"
done

run modules-that-matter
"$python" -m ablate architecture outputs/modules-that-matter --metric embedding
keep outputs/modules-that-matter/architecture.png architecture 2400

run prompts-seeds-amounts
"$python" -m ablate map outputs/prompts-seeds-amounts
keep outputs/prompts-seeds-amounts/map.png map 1800
"$python" -m ablate curves outputs/hal
keep outputs/hal/curves.png curves 1500
"$python" -m ablate animate outputs/mix-noise-everywhere --over amount --out "$gallery/mix-noise.webp"

"$python" -m ablate.bundled.quality --pictures "$gallery/samples.png"
