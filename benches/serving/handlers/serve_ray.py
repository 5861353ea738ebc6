"""Ray Serve with one replica."""

import sys
import threading

import ray
from engine import Engine
from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0})
class Onnx:
    def __init__(self):
        self.engine = Engine()

    async def __call__(self, request):
        return {"y": self.engine((await request.json())["x"]).tolist()}


ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(Onnx.bind(), route_prefix="/predict")
threading.Event().wait()
