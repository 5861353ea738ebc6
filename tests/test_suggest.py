"""`mizzen suggest`, asked as Katib's controller asks a suggestion service: by the SDK's own stubs."""

import contextlib

import grpc
import pytest
from conftest import Server, run
from kubeflow.katib import katib_api_pb2 as pb, katib_api_pb2_grpc

ALGORITHMS = {
    "random": {}, "grid": {}, "tpe": {}, "multivariate-tpe": {}, "bayesianoptimization": {}, "cmaes": {}, "sobol": {},
    "gp": {}, "auto": {}, "asha": {"r_max": "9", "resource_name": "epochs"},
    "hyperband": {"r_l": "9", "resource_name": "epochs", "eta": "3"},
    "pbt": {"n_population": "5", "truncation_threshold": "0.4", "suggestion_trial_dir": "/checkpoints"},
}


@contextlib.contextmanager
def suggest(directory, *flags):
    server = Server("suggest", "--port", 0, *flags, data_dir=directory / "suggest")
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    directory = tmp_path_factory.mktemp("suggest")
    with suggest(directory, "--checkpoints", directory / "checkpoints") as server:
        server.checkpoints = directory / "checkpoints"
        yield server


@contextlib.contextmanager
def stub(server):
    with grpc.insecure_channel(server.at["suggestion"]) as channel:
        yield katib_api_pb2_grpc.SuggestionStub(channel)


def experiment(algorithm, **settings):
    def range_(name, kind, max_, step=""):
        return pb.ParameterSpec(name=name, parameter_type=kind, feasible_space=pb.FeasibleSpace(min="1", max=max_, step=step))

    return pb.Experiment(name=f"e-{algorithm}", spec=pb.ExperimentSpec(
        parameter_specs=pb.ExperimentSpec.ParameterSpecs(
            parameters=[range_("x", pb.DOUBLE, "2", "0.01"), range_("epochs", pb.INT, "9")]),
        objective=pb.ObjectiveSpec(type=pb.MINIMIZE, objective_metric_name="loss"),
        algorithm=pb.AlgorithmSpec(algorithm_name=algorithm, algorithm_settings=[
            pb.AlgorithmSetting(name=name, value=value) for name, value in settings.items()]),
        parallel_trial_count=3, max_trial_count=12))


def ask(stub, spec, trials, count):
    return stub.GetSuggestions(pb.GetSuggestionsRequest(
        experiment=spec, trials=trials, current_request_number=count, total_request_number=len(trials) + count), timeout=60)


def trials_of(reply, first, condition=pb.TrialStatus.SUCCEEDED):
    for number, suggested in enumerate(reply.parameter_assignments, first):
        yield pb.Trial(
            name=suggested.trial_name or f"t-{number}",
            spec=pb.TrialSpec(parameter_assignments=pb.TrialSpec.ParameterAssignments(assignments=suggested.assignments)),
            status=pb.TrialStatus(
                start_time=f"2026-01-01T00:00:{number:02}Z", condition=condition, observation=pb.Observation(metrics=[
                    pb.Metric(name="loss", value=suggested.assignments[0].value)] if condition == pb.TrialStatus.SUCCEEDED else [])))


def points(trials):
    return {tuple(a.value for a in t.spec.parameter_assignments.assignments) for t in trials}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_exactly_what_was_asked_for_and_nothing_twice_also_after_a_restart(service, tmp_path, algorithm):
    spec = experiment(algorithm, **ALGORITHMS[algorithm])
    with stub(service) as asked:
        asked.ValidateAlgorithmSettings(pb.ValidateAlgorithmSettingsRequest(experiment=spec))
        trials = list(trials_of(ask(asked, spec, [], 5), 0))
        reply = ask(asked, spec, trials, 3)
    pending = list(trials_of(reply, 5, pb.TrialStatus.RUNNING))
    assert len(pending) == 3
    if algorithm != "pbt":  # whose members go on as they are while they do well
        assert len(points(trials + pending)) == 8
    with suggest(tmp_path) as another, stub(another) as asked:
        assert ask(asked, spec, trials[::-1], 3) == reply, "what is suggested follows from the trials alone"


def test_hyperbands_settings_come_back_and_a_failed_trial_is_the_worst_of_its_rung(service):
    spec = experiment("hyperband", **ALGORITHMS["hyperband"])
    with stub(service) as asked:
        first = ask(asked, spec, [], 9)
        assert {a.value for s in first.parameter_assignments for a in s.assignments if a.name == "epochs"} == {"1"}
        fed_back = {s.name: s.value for s in first.algorithm.algorithm_settings}
        assert fed_back["s_max"] == "2" and fed_back["resource_name"] == "epochs"
        spec.spec.algorithm.CopyFrom(first.algorithm)
        rung = sorted(trials_of(first, 0), key=lambda t: float(t.status.observation.metrics[0].value))
        rung[0].status.condition = pb.TrialStatus.FAILED
        rung[0].status.ClearField("observation")
        second = ask(asked, spec, rung, 3)
    going_on = {a.value for s in second.parameter_assignments for a in s.assignments if a.name == "x"}
    assert going_on == {t.spec.parameter_assignments.assignments[0].value for t in rung[1:4]}
    assert {a.value for s in second.parameter_assignments for a in s.assignments if a.name == "epochs"} == {"3"}


def test_pbt_hands_checkpoints_on(service):
    spec = experiment("pbt", **ALGORITHMS["pbt"])
    with stub(service) as asked:
        first = list(trials_of(ask(asked, spec, [], 5), 0))
        for trial in first:
            (service.checkpoints / spec.name / trial.name / "state").write_text(trial.name)
        for suggested in ask(asked, spec, first, 5).parameter_assignments:
            assert suggested.labels["pbt.suggestion.katib.kubeflow.org/generation"] == "1"
            parent = suggested.labels["pbt.suggestion.katib.kubeflow.org/parent"]
            assert (service.checkpoints / spec.name / suggested.trial_name / "state").read_text() == parent
        names = [t.name for t in first]
        spec.name = "../../elsewhere"
        assert len(ask(asked, spec, [], 5).parameter_assignments) == 5
    assert not (service.checkpoints.parent.parent / "elsewhere").exists() and len(set(names)) == 5


@pytest.mark.parametrize("shows, algorithm, settings, change, words", [
    ("a slip in the algorithm's name", "radom", {}, None, ["radom", "`random`"]),
    ("a setting it does not have", "tpe", {"gama": "0.1"}, None, ["gama", "`gamma`"]),
    ("a setting out of range", "tpe", {"gamma": "7"}, None, ["gamma", "`7`", "expected"]),
    ("a setting that is missing", "hyperband", {"r_l": "9"}, None, ["resource_name"]),
    ("bounds the wrong way round", "tpe", {}, lambda s: setattr(s.parameter_specs.parameters[0].feasible_space, "max", "0"), ["`x`", "max"]),
    ("no parameters", "tpe", {}, lambda s: s.ClearField("parameter_specs"), ["parameters"]),
    ("no objective", "tpe", {}, lambda s: s.ClearField("objective"), ["objective.type"]),
])
def test_a_bad_request_is_refused_by_field_and_the_service_goes_on(service, shows, algorithm, settings, change, words):
    spec = experiment(algorithm, **settings)
    if change:
        change(spec.spec)
    with stub(service) as asked:
        for call in (lambda: asked.ValidateAlgorithmSettings(pb.ValidateAlgorithmSettingsRequest(experiment=spec)),
                     lambda: ask(asked, spec, [], 1)):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT, shows
            for word in words:
                assert word in refused.value.details(), shows
        for count in (-1, 2**31 - 1):
            with pytest.raises(grpc.RpcError, match="current_request_number"):
                ask(asked, experiment("random"), [], count)
        assert len(ask(asked, experiment("random"), [pb.Trial(), pb.Trial(name="odd", spec=pb.TrialSpec())], 2).parameter_assignments) == 2


def test_health_is_told_by_katibs_name(service):
    check = "/grpc.health.v1.Health/Check"
    with grpc.insecure_channel(service.at["suggestion"]) as channel:
        call = channel.unary_unary(check)
        name = b"manager.v1beta1.Suggestion"
        assert call(b"\x0a" + bytes([len(name)]) + name) == b"\x08\x01", "SERVING"
        assert call(b"") == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\x0a\x03odd")
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_it_tells_by_reflection_what_it_speaks(service):
    """As grpcurl asks, in both versions of the protocol: first for names, then for what a name means."""
    for version in ("v1", "v1alpha"):
        with grpc.insecure_channel(service.at["suggestion"]) as channel:
            call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
            listed, file = call(iter([b"\x3a\x01*", symbol("api.v1.beta1.Suggestion")]))
            with pytest.raises(grpc.RpcError, match="no.such.Service"):
                list(call(iter([symbol("no.such.Service")])))
        assert b"api.v1.beta1.Suggestion" in listed and b"grpc.health.v1.Health" in listed
        assert b"api.v1.beta1.DBManager" not in listed and b"inference.GRPCInferenceService" not in listed
        assert b"GetSuggestions" in file and b"ParameterAssignments" in file


def symbol(name):
    return b"\x22" + bytes([len(name)]) + name.encode()


def test_other_machines_are_let_in_only_when_told_so():
    refused = run("suggest", "--port", 0, "--address", "0.0.0.0", check=False)
    assert refused.returncode == 2 and "--allow-remote" in refused.stderr, refused.stderr
    wrong = run("suggest", "--port", 70000, check=False)
    assert wrong.returncode == 2 and "70000" in wrong.stderr and wrong.stdout == ""
