"""mosec: a front in Rust, one worker in Python, requests batched between them."""

from engine import Engine
from mosec import Server, Worker


class Onnx(Worker):
    def __init__(self):
        super().__init__()
        self.engine = Engine()

    def forward(self, data):
        import numpy as np

        rows = [np.asarray(one["x"], dtype=np.float32) for one in data]
        y, answers, start = self.engine(np.concatenate(rows)), [], 0
        for row in rows:
            answers.append({"y": y[start : start + len(row)].tolist()})
            start += len(row)
        return answers


if __name__ == "__main__":
    server = Server()
    server.append_worker(Onnx, num=1, max_batch_size=32, max_wait_time=1)
    server.run()
