"""A handler of TorchServe's."""

from engine import Engine

engine = None


def handle(data, context):
    global engine
    if engine is None:
        engine = Engine()
    if data is None:
        return None
    return [{"y": engine((one.get("body") or one)["x"]).tolist()} for one in data]
