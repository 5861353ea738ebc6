"""TorchServe 0.12, the last one: a front in Java, a handler in Python."""

import os
import shutil

import install
from install import Unavailable

from .python_servers import HANDLERS, OwnJson, PythonServer, free_ports


class TorchServe(OwnJson, PythonServer):
    name = "TorchServe"
    # Its workers import PyTorch, which the handler here has no use for: 5 GB, so only where it is asked for.
    requirements = ("torchserve==0.12.0", "torch-model-archiver==0.12.0", "psutil", "packaging", "pyyaml", "numpy")

    def prepare(self):
        if not shutil.which("java"):
            raise Unavailable("it needs Java")
        if "MIZZEN_PEERS_TORCH" not in os.environ:
            raise Unavailable("its workers import PyTorch, 5 GB from PyPI; MIZZEN_PEERS_TORCH=1 fetches it")
        self.requirements = (*self.requirements, "torch")
        super().prepare()

    def call(self, protocol, model, x):
        call = super().call(protocol, model, x)
        call.path = f"/predictions/{model}"
        return call

    def command(self, http, grpc, model, scratch):
        store, (management, metrics, rpc, rpc_management) = scratch / "torchserve", free_ports(4)
        store.mkdir(exist_ok=True)
        install.sh([self.python.parent / "torch-model-archiver", "--model-name", model, "--version", "1", "--handler",
                    HANDLERS / "handler_torchserve.py", "--extra-files", HANDLERS / "engine.py", "--export-path", store,
                    "--force"])
        (store / "config.properties").write_text(
            f"inference_address=http://127.0.0.1:{http}\nmanagement_address=http://127.0.0.1:{management}\n"
            f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_address=127.0.0.1\n"
            f"grpc_management_address=127.0.0.1\ngrpc_inference_port={rpc}\ngrpc_management_port={rpc_management}\n"
            f"default_workers_per_model=1\nmodel_store={store}\nload_models={model}.mar\ndisable_token_authorization=true\n")
        return [self.python.parent / "torchserve", "--start", "--foreground", "--ncs", "--disable-token-auth",
                "--model-store", store, "--ts-config", store / "config.properties"], {"LOG_LOCATION": str(store)}
