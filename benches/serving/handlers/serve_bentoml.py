"""BentoML with one worker."""

import bentoml
from engine import Engine


@bentoml.service(workers=1, traffic={"timeout": 30})
class Onnx:
    def __init__(self):
        self.engine = Engine()

    @bentoml.api
    def predict(self, x: list) -> dict:
        return {"y": self.engine(x).tolist()}
