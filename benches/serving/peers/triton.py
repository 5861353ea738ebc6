"""NVIDIA Triton 2.51 (24.10): the server out of PyPI's `nvidia-pytriton`, its ONNX Runtime backend built here.

The wheel holds the server with its HTTP and gRPC fronts and the dynamic batcher, but no ONNX Runtime backend. That
is a dozen public C++ files; they are compiled, against the very library that Mizzen opens, in half a minute.
"""

import pathlib
import shutil

import calls
import install
from install import Unavailable

from .base import Peer, Running, free_ports

ROOT = pathlib.Path(__file__).resolve().parents[3]
WHEEL = "nvidia-pytriton==0.7.0"
BRANCH = "r24.10"
# Headers of ONNX Runtime's C interface, which is versioned: older ones work with newer libraries.
HEADERS = ("libonnxruntime-dev", "trixie")


class Triton(Peer):
    name = "Triton"
    version = "2.51.0 (24.10) with its ONNX Runtime backend"

    def prepare(self):
        self.home = install.wheel("triton", WHEEL) / "pytriton/tritonserver"
        library = next((ROOT / ".cache/onnxruntime/lib").glob("libonnxruntime.so.*")).resolve()
        stamp = f"{WHEEL} {BRANCH} {library.name}"
        self.backends = install.once(install.CACHE / "triton-backends", stamp, lambda folder: build(folder, library))

    def start(self, repository, scratch, model=None, flags=()):
        http, grpc, metrics = free_ports(3)
        running = Running(
            self.name, [self.home / "bin/tritonserver", "--model-repository", repository,
                        "--backend-directory", self.backends, "--http-address", "127.0.0.1", "--http-port", http,
                        "--grpc-address", "127.0.0.1", "--grpc-port", grpc, "--metrics-address", "127.0.0.1",
                        "--metrics-port", metrics, "--log-info", "false", *flags],
            {}, scratch / "triton.log", f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")
        running.metrics = f"127.0.0.1:{metrics}"

        def ready():
            status, _, _ = calls.get(running.http, "/v2/health/ready")
            if status != 200:
                raise RuntimeError(f"HTTP {status}")

        running.wait_for(ready)
        return running


def build(folder, library):
    """Compiles the ONNX Runtime backend of the server's own release into `folder/onnxruntime`."""
    if not shutil.which("g++"):
        raise Unavailable("its ONNX Runtime backend needs `g++`")
    core, common, backend, onnx = [
        install.source(name, BRANCH) for name in ("core", "common", "backend", "onnxruntime_backend")]
    headers = install.debian("onnxruntime-headers", [HEADERS[0]], HEADERS[1])
    rapidjson = install.debian("rapidjson", ["rapidjson-dev"])
    place = folder / "onnxruntime"
    place.mkdir()
    shutil.copy(library, place / "libonnxruntime.so.1")
    # The tracker counts GPU memory and needs CUDA's headers.
    sources = [*onnx.glob("src/*.cc"), *(s for s in backend.glob("src/*.cc") if "tracker" not in s.name),
               *(common / "src" / f"{name}.cc" for name in ("async_work_queue", "error", "thread_pool"))]
    folders = [next(headers.rglob("onnxruntime_c_api.h")).parent, rapidjson / "usr/include", core / "include",
               common / "include", backend / "include", backend / "src", onnx / "src"]
    install.sh(["g++", "-std=c++17", "-O3", "-fPIC", "-shared", "-w", *(f"-I{f}" for f in folders), *sources,
                "-o", place / "libtriton_onnxruntime.so", f"-L{place}", "-l:libonnxruntime.so.1",
                "-Wl,-rpath,$ORIGIN", f"-Wl,--version-script={onnx / 'src/libtriton_onnxruntime.ldscript'}"])
