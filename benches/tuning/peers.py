"""Samplers behind one ask/tell: ours through its driver, peers through their own interfaces with their defaults.

`make(name, space, seed, budget, parallel)` gives an object with `ask(n)`, which returns n points as dicts, and
`tell(point, value)` for each point it gave.
"""

import json
import math
import os
import pathlib
import subprocess
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[2]
DRIVER = os.environ.get("MIZZEN_ASK_TELL", str(ROOT / "target/debug/examples/ask_tell"))


def make(name, space, seed, budget, parallel):
    for prefix, peer in PEERS.items():
        if name.startswith(prefix):
            return peer(name.removeprefix(prefix), space, seed, budget, parallel)
    return Ours(name, space, seed, budget=budget, parallel=parallel)


def bounds(parameter):
    feasible = parameter["feasibleSpace"]
    return float(feasible["min"]), float(feasible["max"]), feasible.get("distribution") == "logUniform"


def value(parameter, text):
    kind = parameter["parameterType"]
    return text if kind == "categorical" else int(text) if kind == "int" else float(text)


class Ours:
    """One of Mizzen's samplers by name, told the budget and how many points are tried at once, as an Experiment tells it.

    `name:key=value,...` gives settings, and `@label` at the end tells versions of one sampler apart.
    """

    process = None

    def __init__(self, name, space, seed, history=(), budget=None, parallel=None):
        name, _, pairs = name.partition("@")[0].partition(":")
        settings = dict(pair.split("=") for pair in pairs.split(",") if pair)
        self.space, self.seconds, self.ids = {p["name"]: p for p in space}, 0.0, {}
        if Ours.process is None:
            Ours.process = subprocess.Popen([DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.call({"space": space, "algorithm": name, "settings": settings, "seed": seed,
                   "budget": budget, "parallel": parallel, "history": list(history)})

    def call(self, message):
        Ours.process.stdin.write(json.dumps(message) + "\n")
        Ours.process.stdin.flush()
        answer = json.loads(Ours.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def ask(self, count):
        answer = self.call({"ask": count})
        self.seconds += answer["seconds"]
        points = [{n: value(self.space[n], t) for n, t in p.items()} for p in answer["points"]]
        self.ids.update({id(p): i for p, i in zip(points, answer["ids"])})
        self.points = points  # so that their ids stay theirs until they are told
        return points

    def tell(self, point, value):
        self.call({"tell": [[self.ids.pop(id(point)), value]]})


class Timed:
    """A peer; processor time of its ask and tell is counted."""

    def __init__(self, name, space, seed, budget, parallel):
        self.space, self.seconds = space, 0.0
        warnings.simplefilter("ignore")
        self.start(name, seed, budget, parallel)

    def ask(self, count):
        began = time.process_time()
        try:
            return self.points(count)
        finally:
            self.seconds += time.process_time() - began

    def tell(self, point, value):
        began = time.process_time()
        self.learn(point, value)
        self.seconds += time.process_time() - began


class Optuna(Timed):
    """`optuna-tpe` (5's default, multivariate), `optuna-tpe-indep`, `optuna-gp`, `optuna-cmaes`, `optuna-random`."""

    def start(self, name, seed, budget, parallel):
        import optuna
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        samplers = optuna.samplers
        sampler = {"tpe": lambda: samplers.TPESampler(seed=seed),
                   "tpe-indep": lambda: samplers.TPESampler(seed=seed, multivariate=False),
                   "gp": lambda: samplers.GPSampler(seed=seed),
                   "cmaes": lambda: samplers.CmaEsSampler(seed=seed),
                   "random": lambda: samplers.RandomSampler(seed=seed)}[name]()
        self.study, self.trials = optuna.create_study(sampler=sampler), {}

    def points(self, count):
        return [self.one() for _ in range(count)]

    def one(self):
        trial, point = self.study.ask(), {}
        for p in self.space:
            name, kind = p["name"], p["parameterType"]
            if kind == "categorical":
                point[name] = trial.suggest_categorical(name, p["feasibleSpace"]["list"])
            elif kind == "discrete":
                # As ours lays it out: by rank, for a list has no scale of its own.
                choices = p["feasibleSpace"]["list"]
                point[name] = float(choices[trial.suggest_int(name, 0, len(choices) - 1)])
            else:
                low, high, log = bounds(p)
                suggest = trial.suggest_int if kind == "int" else trial.suggest_float
                low, high = (int(low), int(high)) if kind == "int" else (low, high)
                by = p["feasibleSpace"].get("step")
                point[name] = suggest(name, low, high, step=float(by)) if by else suggest(name, low, high, log=log)
        self.trials[id(point)] = (trial, point)
        return point

    def learn(self, point, value):
        self.study.tell(self.trials.pop(id(point))[0], value)


class Nevergrad(Timed):
    """`nevergrad-NGOpt`, told the budget and the workers."""

    def start(self, name, seed, budget, parallel):
        import nevergrad as ng
        import numpy as np
        doubles = all(p["parameterType"] == "double" and not bounds(p)[2] for p in self.space)
        self.array = doubles and len({bounds(p) for p in self.space}) == 1
        if self.array:
            low, high, _ = bounds(self.space[0])
            space = ng.p.Array(init=np.full(len(self.space), (low + high) / 2)).set_bounds(low, high)
        else:
            space = ng.p.Dict(**{p["name"]: self.parameter(ng, p) for p in self.space})
        space.random_state = np.random.RandomState(seed)
        self.optimizer = ng.optimizers.registry[name](space, budget=budget, num_workers=parallel)
        self.asked = {}

    @staticmethod
    def parameter(ng, p):
        kind = p["parameterType"]
        if kind == "categorical":
            return ng.p.Choice(p["feasibleSpace"]["list"])
        if kind == "discrete":
            return ng.p.TransitionChoice([float(v) for v in p["feasibleSpace"]["list"]])
        low, high, log = bounds(p)
        scalar = ng.p.Log(lower=low, upper=high) if log else ng.p.Scalar(lower=low, upper=high)
        return scalar.set_integer_casting() if kind == "int" else scalar

    def points(self, count):
        points = []
        for _ in range(count):
            candidate = self.optimizer.ask()
            values = dict(zip((p["name"] for p in self.space), candidate.value)) if self.array else dict(candidate.value)
            self.asked[id(values)] = (candidate, values)
            points.append(values)
        return points

    def learn(self, point, value):
        self.optimizer.tell(self.asked.pop(id(point))[0], value)


class Hyperopt(Timed):
    """`hyperopt-tpe`; in a batch, each point with its own seed, as its parallel backends do."""

    def start(self, name, seed, budget, parallel):
        import numpy as np
        from hyperopt import Trials, hp, tpe
        from hyperopt.base import Domain
        space = {}
        for p in self.space:
            label, kind = p["name"], p["parameterType"]
            if kind in ("categorical", "discrete"):
                space[label] = hp.choice(label, p["feasibleSpace"]["list"]) if kind == "categorical" else \
                    hp.quniform(label, 0, len(p["feasibleSpace"]["list"]) - 1, 1)
            else:
                low, high, log = bounds(p)
                args = (math.log(low), math.log(high)) if log else (low, high)
                draw = {(False, False): hp.uniform, (False, True): hp.loguniform,
                        (True, False): hp.quniform, (True, True): hp.qloguniform}[kind == "int", log]
                space[label] = draw(label, *args, *([1] if kind == "int" else []))
        self.domain, self.trials, self.tpe = Domain(lambda x: 0, space), Trials(), tpe
        self.rng, self.asked = np.random.default_rng(seed), {}

    def points(self, count):
        points = []
        for _ in range(count):
            ids = self.trials.new_trial_ids(1)
            doc, = self.tpe.suggest(ids, self.domain, self.trials, int(self.rng.integers(2**31 - 1)))
            self.trials.insert_trial_docs([doc])
            self.trials.refresh()
            chosen, point = {k: v[0] for k, v in doc["misc"]["vals"].items()}, {}
            for p in self.space:
                v, kind = chosen[p["name"]], p["parameterType"]
                if kind in ("categorical", "discrete"):
                    text = p["feasibleSpace"]["list"][int(v)]
                    point[p["name"]] = text if kind == "categorical" else float(text)
                else:
                    low, high, _ = bounds(p)
                    point[p["name"]] = int(min(max(v, low), high)) if kind == "int" else v
            self.asked[id(point)] = (doc["tid"], point)
            points.append(point)
        return points

    def learn(self, point, value):
        tid, _ = self.asked.pop(id(point))
        trial = next(t for t in self.trials._dynamic_trials if t["tid"] == tid)
        trial["result"], trial["state"] = {"loss": value, "status": "ok"}, 2
        self.trials.refresh()


class Skopt(Timed):
    """`skopt-gp`: scikit-optimize's default, a Gaussian process with hedged acquisitions."""

    def start(self, name, seed, budget, parallel):
        from skopt import Optimizer
        from skopt.space import Categorical, Integer, Real
        dimensions = []
        for p in self.space:
            kind = p["parameterType"]
            if kind == "categorical":
                dimensions.append(Categorical(p["feasibleSpace"]["list"]))
            elif kind == "discrete":
                dimensions.append(Integer(0, len(p["feasibleSpace"]["list"]) - 1))
            else:
                low, high, log = bounds(p)
                make = Integer if kind == "int" else Real
                low, high = (int(low), int(high)) if kind == "int" else (low, high)
                dimensions.append(make(low, high, prior="log-uniform" if log else "uniform"))
        self.optimizer, self.asked = Optimizer(dimensions, random_state=seed), {}

    def points(self, count):
        found = [self.optimizer.ask()] if count == 1 else self.optimizer.ask(count)
        points = []
        for x in found:
            point = {p["name"]: float(p["feasibleSpace"]["list"][v]) if p["parameterType"] == "discrete" else v
                     for p, v in zip(self.space, x)}
            self.asked[id(point)] = (x, point)
            points.append(point)
        return points

    def learn(self, point, value):
        self.optimizer.tell(self.asked.pop(id(point))[0], value)


PEERS = {"optuna-": Optuna, "nevergrad-": Nevergrad, "hyperopt-": Hyperopt, "skopt-": Skopt}
