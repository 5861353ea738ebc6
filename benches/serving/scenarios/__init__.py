"""One question a file: each has `run(bench)`, which measures, and `markdown(result)`, which tells."""

from . import answers, batched, change, footprint, goodput, image_json, overhead

ALL = {module.__name__.rsplit(".")[-1]: module
       for module in (overhead, goodput, batched, change, image_json, footprint, answers)}
