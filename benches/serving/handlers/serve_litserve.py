"""LitServe with one worker."""

import sys

import litserve
from engine import Engine


class Onnx(litserve.LitAPI):
    def setup(self, device):
        self.engine = Engine()

    def decode_request(self, request):
        return request["x"]

    def predict(self, x):
        return self.engine(x)

    def encode_response(self, y):
        return {"y": y.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Onnx(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
