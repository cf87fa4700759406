#!/usr/bin/env bash
# Makes the README's pictures from recipes, on the bundled model. About six minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
for recipe in quickstart zero-each-module zero-by-role hal mix-noise-everywhere scale-down amount-by-stage; do
    "$python" -m ablate run "$recipe"
    "$python" - "outputs/$recipe/sheet.png" "outputs/gallery/$recipe.png" <<'PY'
import sys
from PIL import Image

# 255 colors are enough for flat emoji, and a third of the bytes.
sheet = Image.open(sys.argv[1]).convert("RGB")
sheet.quantize(255, kmeans=1, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
PY
done
"$python" -m ablate.bundled.quality --pictures outputs/gallery/samples.png
