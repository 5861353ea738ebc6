"""KServe's Python server with one model, bound to loopback, which it has no option for."""

import logging
import sys

import grpc.aio
import uvicorn
from engine import Engine
from kserve import InferOutput, InferResponse, Model, ModelServer

http, rpc, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


class Onnx(Model):
    def __init__(self):
        super().__init__(name)
        self.engine, self.ready = Engine(), True

    async def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, dict):
            return {"predictions": self.engine(payload["instances"]).tolist()}
        y = self.engine(payload.inputs[0].as_numpy())
        output = InferOutput(name="y", shape=list(y.shape), datatype="FP32")
        output.set_data_from_numpy(y, binary_data=payload.from_grpc or bool(payload.request_outputs))
        return InferResponse(response_id=payload.id or "0", model_name=name, infer_outputs=[output],
                             use_binary_outputs=bool(payload.request_outputs))


class LoopbackConfig(uvicorn.Config):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **{**options, "host": "127.0.0.1", "access_log": False})


original = grpc.aio.server


def loopback_server(*arguments, **options):
    server = original(*arguments, **options)
    bind = server.add_insecure_port
    server.add_insecure_port = lambda address: bind(address.replace("[::]", "127.0.0.1"))
    return server


uvicorn.Config, grpc.aio.server = LoopbackConfig, loopback_server
logging.getLogger("kserve").setLevel(logging.WARNING)
ModelServer(http_port=http, grpc_port=rpc, workers=1, enable_latency_logging=False).start([Onnx()])
