"""One question a file: each has `run(bench)`, which measures, and `markdown(result)`, which tells."""

from . import answers, batched, change, footprint, goodput, image_json, overhead

ALL = {module.__name__.rsplit(".")[-1]: module
       for module in (answers, footprint, overhead, image_json, batched, goodput, change)}
