"""Ourselves."""

import datetime
import pathlib

from install import Unavailable, sh

from .base import Peer, Running

ROOT = pathlib.Path(__file__).resolve().parents[3]


class Mizzen(Peer):
    name = "Mizzen"
    binary = ROOT / "target/release/mizzen"

    def prepare(self):
        if not self.binary.exists():
            raise Unavailable(f"`{self.binary}` does not exist; `make build` builds it")

        built = datetime.datetime.fromtimestamp(self.binary.stat().st_mtime, datetime.UTC)
        self.version = f"{sh([self.binary, '--version']).split()[-1]} (built {built:%Y-%m-%d %H:%M} UTC)"

    def start(self, repository, scratch, model=None, flags=()):
        # Tritons of this age share memory with any client; later ones, and we, have to be told to.
        library = next((ROOT / ".cache/onnxruntime/lib").glob("libonnxruntime.so.*"))
        return Running(
            self.name, [self.binary, "--log", "warn", "serve", "--model-repository", repository, "--http-port", 0,
                        "--grpc-port", 0, "--metrics-port", 0, "--onnxruntime", library,
                        "--allow-client-shm=true", *flags],
            {"MIZZEN_DATA_DIR": str(scratch / "mizzen-data")}, scratch / "mizzen.log", ready_line=True)
