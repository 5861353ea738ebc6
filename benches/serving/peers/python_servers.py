"""Servers whose models are Python: each in a virtual environment of its own, over the same engine."""

import calls
import install

from .base import Peer, Running, free_ports

HANDLERS = install.pathlib.Path(__file__).resolve().parents[1] / "handlers"
ENGINE = "onnxruntime==1.31.1"


class PythonServer(Peer):
    """One model a process. Subclasses give the requirements and the command."""

    requirements = ()

    @property
    def version(self):
        return self.requirements[0].split("==")[1]

    def prepare(self):
        self.python = install.venv(self.name.lower().replace(" ", ""), *self.requirements, ENGINE)

    def start(self, repository, scratch, model=None):
        http, grpc = free_ports(2)
        environment = {
            "MIZZEN_BENCH_MODEL": str(repository / model / "1/model.onnx"), "PYTHONPATH": str(HANDLERS),
            "PATH": f"{self.python.parent}:{install.os.environ['PATH']}", "HOME": str(scratch)}
        command, more = self.command(http, grpc, model, scratch)
        running = Running(self.name, command, {**environment, **more}, scratch / f"{self.name}.log",
                          f"127.0.0.1:{http}", f"127.0.0.1:{grpc}" if "grpc" in self.protocols else None)
        return running


class OwnJson:
    """Servers with a body of their own: `{"x": …}` in, `{"y": …}` out."""

    protocols = ("rest-json",)
    path = "/predict"

    def call(self, protocol, model, x):
        return calls.Call(protocol, self.path, calls.json.dumps({"x": x.tolist()}).encode())


class Mosec(OwnJson, PythonServer):
    name = "mosec"
    requirements = ("mosec==0.9.8", "numpy")
    path = "/inference"

    def command(self, http, grpc, model, scratch):
        return [self.python, HANDLERS / "serve_mosec.py", "--address", "127.0.0.1", "--port", http,
                "--log-level", "warning"], {}


class KServe(PythonServer):
    name = "KServe"
    requirements = ("kserve==0.21.0",)

    def command(self, http, grpc, model, scratch):
        return [self.python, HANDLERS / "serve_kserve.py", http, grpc, model], {}


class MlServer(PythonServer):
    name = "MLServer"
    requirements = ("mlserver==1.7.1",)
    protocols = ("grpc", "rest-json")

    def command(self, http, grpc, model, scratch):
        folder = scratch / "mlserver"
        folder.mkdir(exist_ok=True)
        settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": free_ports(1)[0],
                    "parallel_workers": 0, "debug": False, "metrics_endpoint": None}
        (folder / "settings.json").write_text(calls.json.dumps(settings))
        (folder / "model-settings.json").write_text(
            calls.json.dumps({"name": model, "implementation": "runtime_mlserver.Onnx"}))
        return [self.python.parent / "mlserver", "start", folder], {}


class LitServe(OwnJson, PythonServer):
    name = "LitServe"
    requirements = ("litserve==0.2.19",)

    def command(self, http, grpc, model, scratch):
        return [self.python, HANDLERS / "serve_litserve.py", http], {}


class BentoMl(OwnJson, PythonServer):
    name = "BentoML"
    requirements = ("bentoml==1.4.39",)

    def command(self, http, grpc, model, scratch):
        return [self.python.parent / "bentoml", "serve", "serve_bentoml:Onnx", "--working-dir", HANDLERS,
                "--host", "127.0.0.1", "--port", http], {"BENTOML_DO_NOT_TRACK": "True",
                                                        "BENTOML_HOME": str(scratch / "bentoml")}


class RayServe(OwnJson, PythonServer):
    name = "Ray Serve"
    requirements = ("ray[serve]==2.60.0",)
    idles = False

    def command(self, http, grpc, model, scratch):
        return [self.python, HANDLERS / "serve_ray.py", http], {"RAY_USAGE_STATS_ENABLED": "0"}
