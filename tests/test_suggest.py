"""`mizzen suggest`, asked as Katib's controller asks a suggestion service: by the SDK's own stubs."""

import contextlib
from concurrent import futures

import grpc
import pytest
from clusters import Cluster, operated
from conftest import Server, run, until, up
from kubeflow.katib import katib_api_pb2 as pb, katib_api_pb2_grpc
from test_cluster import experiment_spec

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
        assert fed_back == {"eta": "3", "s_max": "2", "r_l": "9", "b_l": "27", "r": "1", "n": "9", "current_s": "2",
                            "current_i": "0", "resource_name": "epochs", "evaluating_trials": "9"}, "as Katib's"
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


# --- early stopping ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopping(server):
    with grpc.insecure_channel(server.at["suggestion"]) as channel:
        yield katib_api_pb2_grpc.EarlyStoppingStub(channel)


def stopped_early(algorithm, kind=pb.MINIMIZE, **settings):
    spec = experiment("random")
    spec.spec.objective.type = kind
    spec.spec.early_stopping.CopyFrom(pb.EarlyStoppingSpec(algorithm_name=algorithm, algorithm_settings=[
        pb.EarlyStoppingSetting(name=name, value=value) for name, value in settings.items()]))
    return spec


class Series(katib_api_pb2_grpc.DBManagerServicer):
    """A DBManager that holds these series, and counts who asks."""

    def __init__(self, **of):
        self.of, self.asked = of, []

    def GetObservationLog(self, request, context):
        self.asked.append(request.trial_name)
        return pb.GetObservationLogReply(observation_log=pb.ObservationLog(metric_logs=[
            pb.MetricLog(metric=pb.Metric(name=request.metric_name, value=str(v))) for v in self.of[request.trial_name]]))


@contextlib.contextmanager
def serving(add, servicer):
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def past(**conditions):
    return [pb.Trial(name=name, status=pb.TrialStatus(condition=condition, completion_time=f"2026-01-01T00:00:{n:02}Z"))
            for n, (name, condition) in enumerate(conditions.items())]


def test_medianstops_rule_is_katibs(service):
    """As Katib's own service: the mean over trials that succeeded of the mean of their first values."""
    series = Series(a=[1, 3, 90], b=[5, "odd", 5], failed=[0, 0], running=[0, 0])
    done, gone = pb.TrialStatus.SUCCEEDED, pb.TrialStatus.FAILED
    with serving(katib_api_pb2_grpc.add_DBManagerServicer_to_server, series) as address, stopping(service) as asked:
        def rules(spec, trials):
            return asked.GetEarlyStoppingRules(pb.GetEarlyStoppingRulesRequest(
                experiment=spec, trials=trials, db_manager_address=address), timeout=60).early_stopping_rules
        spec = stopped_early("medianstop", min_trials_required="2", start_step="2")
        assert len(rules(spec, past(a=done))) == 0, "too few have succeeded"
        trials = past(a=done, b=done, failed=gone, running=pb.TrialStatus.RUNNING)
        rule, = rules(spec, trials)
        assert (rule.name, float(rule.value), rule.comparison, rule.start_step) == ("loss", 3.5, pb.GREATER, 2)
        assert rules(spec, trials) == [rule] and sorted(series.asked) == ["a", "b"], "each series is read once"
        rule, = rules(stopped_early("medianstop", pb.MAXIMIZE, min_trials_required="1", start_step="1"), trials)
        assert (float(rule.value), rule.comparison, rule.start_step) == (3.0, pb.LESS, 1)


def test_a_rung_of_asha_is_a_rule_and_several_are_refused(service):
    done, stopped = pb.TrialStatus.SUCCEEDED, pb.TrialStatus.EARLYSTOPPED
    series = Series(a=[9, 4], b=[9, 1], c=[9, 7], d=[9, 3], e=[9, 8], short=[0])
    with serving(katib_api_pb2_grpc.add_DBManagerServicer_to_server, series) as address, stopping(service) as asked:
        spec = stopped_early("asha", r_min="2", r_max="6", eta="3")
        trials = past(a=done, b=done, c=stopped, d=done, e=done, short=done)
        rule, = asked.GetEarlyStoppingRules(pb.GetEarlyStoppingRulesRequest(
            experiment=spec, trials=trials, db_manager_address=address)).early_stopping_rules
        assert (float(rule.value), rule.comparison, rule.start_step) == (3.0, pb.GREATER, 2), "two of six go on"
        for spec, word in [(stopped_early("asha"), "r_max"), (stopped_early("hyperband", r_l="9"), "hyperband"),
                           (stopped_early("medianstop", start_step="0"), "start_step"), (stopped_early("median"), "`medianstop`")]:
            with pytest.raises(grpc.RpcError) as refused:
                asked.ValidateEarlyStoppingSettings(
                    pb.ValidateEarlyStoppingSettingsRequest(early_stopping=spec.spec.early_stopping))
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT and word in refused.value.details(), word
        asked.ValidateEarlyStoppingSettings(pb.ValidateEarlyStoppingSettingsRequest(
            early_stopping=stopped_early("medianstop", start_step="5").spec.early_stopping))


def test_a_dbmanager_that_is_not_there_is_told(service):
    with stopping(service) as asked:
        for address, code in [("nowhere", grpc.StatusCode.INVALID_ARGUMENT), ("127.0.0.1:1", grpc.StatusCode.UNAVAILABLE)]:
            with pytest.raises(grpc.RpcError) as refused:
                asked.GetEarlyStoppingRules(pb.GetEarlyStoppingRulesRequest(
                    experiment=stopped_early("medianstop"), trials=past(a=pb.TrialStatus.SUCCEEDED), db_manager_address=address))
            assert refused.value.code() == code and address in refused.value.details()


def test_a_trial_that_katibs_collector_stopped_is_marked_in_the_cluster(tmp_path):
    """Goal: SetTrialStatus does what Katib's own service does. Method: a trial of an API server without controllers."""
    with operated(tmp_path) as cluster:
        cluster.apply({"apiVersion": "kubeflow.org/v1beta1", "kind": "Trial", "metadata": {"name": "t"}, "spec": {
            "objective": {"type": "minimize", "objectiveMetricName": "loss"}, "primaryContainerName": "main",
            "runSpec": {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "main", "image": "none", "command": ["sleep", "600"]}]}}}}}})
        cluster.kubectl("wait", "--for=condition=Running", "trial/t", "--timeout=30s")
        server = Server("suggest", "--port", 0, "--namespace", "default", data_dir=tmp_path / "suggest",
                        env={"KUBECONFIG": str(cluster.kubeconfig)})
        try:
            with stopping(server) as asked:
                asked.SetTrialStatus(pb.SetTrialStatusRequest(trial_name="t"), timeout=30)
                asked.SetTrialStatus(pb.SetTrialStatusRequest(trial_name="t"), timeout=30)
                conditions = [c for c in cluster.get("trial", "t")["status"]["conditions"] if c["type"] == "EarlyStopped"]
                assert [c["reason"] for c in conditions] == ["TrialEarlyStopped"]
                with pytest.raises(grpc.RpcError) as refused:
                    asked.SetTrialStatus(pb.SetTrialStatusRequest(trial_name="no-such"), timeout=30)
                assert refused.value.code() == grpc.StatusCode.NOT_FOUND and "no-such" in refused.value.details()
        finally:
            server.stop()


# --- services of users, as `mizzen up` asks them ------------------------------------------------------------


class Suggests(katib_api_pb2_grpc.SuggestionServicer):
    """Answers as `answer` has it, until it is told to do better."""

    def __init__(self, answer):
        self.answer = answer

    def GetSuggestions(self, request, context):
        return self.answer(request.current_request_number)


def given(*assignments):
    return pb.GetSuggestionsReply(parameter_assignments=[
        pb.GetSuggestionsReply.ParameterAssignments(assignments=[pb.ParameterAssignment(name=n, value=v) for n, v in one])
        for one in assignments])


def good(count):
    return given(*[[("x", f"0.{n + 1}")] for n in range(count)])


@pytest.mark.parametrize("shows, answer, words", [
    ("too few", lambda count: good(count - 1), "1 suggestions, where 2 were asked for"),
    ("too many", lambda count: good(count + 1), "3 suggestions, where 2 were asked for"),
    ("a parameter that there is not", lambda count: given(*[[("x", "0.1"), ("y", "1")]] * count), "`y`; the experiment's parameters are `x`"),
    ("one without a value", lambda count: given(*[[]] * count), "no value for `x`"),
    ("one twice", lambda count: given(*[[("x", "0.1"), ("x", "0.2")]] * count), "`x` twice"),
])
def test_an_answer_that_is_not_usable_is_told_and_asked_for_again(tmp_path, shows, answer, words):
    service = Suggests(answer)
    with serving(katib_api_pb2_grpc.add_SuggestionServicer_to_server, service) as address:
        with up(tmp_path / "data", "--suggestion", f"mine={address}") as server:
            cluster = Cluster(tmp_path, server.at["api"])
            cluster.apply(experiment_spec("e", ["sh", "-c", "echo loss=$X"], algorithm="mine", trials=2, parallel=2))

            def condition():
                return cluster.get("experiment", "e").get("status", {}).get("conditions", [{}])[-1]
            until(lambda: condition().get("reason") == "SuggestionUnavailable")
            assert words in condition()["message"] and address in condition()["message"], shows
            assert cluster.get("trials")["items"] == [], shows
            service.answer = good
            assert cluster.ended("e")["status"]["trialsSucceeded"] == 2, shows


class Rules(katib_api_pb2_grpc.EarlyStoppingServicer):
    def __init__(self):
        self.asked, self.told, self.refuse = [], [], False

    def ValidateEarlyStoppingSettings(self, request, context):
        if self.refuse:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such knob")
        return pb.ValidateEarlyStoppingSettingsReply()

    def GetEarlyStoppingRules(self, request, context):
        self.asked.append(request)
        return pb.GetEarlyStoppingRulesReply(early_stopping_rules=[
            pb.EarlyStoppingRule(name="loss", value="5", comparison=pb.GREATER, start_step=3)])

    def SetTrialStatus(self, request, context):
        self.told.append(request.trial_name)
        return pb.SetTrialStatusReply()


def test_early_stopping_of_the_users_own_is_asked_and_heeded(tmp_path):
    """The second trial is bad from its third value on, and would go on for ten minutes."""
    mark = tmp_path / "mark"
    script = f"if [ ! -e {mark} ]; then : > {mark}; for i in 9 8 1 1; do echo loss=$i; done; exit; fi; " \
             "for i in $(seq 6000); do echo loss=9; sleep 0.1; done"
    experiment = experiment_spec("e", ["sh", "-c", script], trials=2, parallel=1)
    experiment["spec"]["earlyStopping"] = {
        "algorithmName": "mine", "algorithmSettings": [{"name": "knob", "value": "7"}]}
    service = Rules()
    with serving(katib_api_pb2_grpc.add_EarlyStoppingServicer_to_server, service) as address:
        with up(tmp_path / "data", "--early-stopping", f"mine={address}") as server:
            cluster = Cluster(tmp_path, server.at["api"])
            cluster.apply(experiment)
            status = cluster.ended("e")["status"]
            assert (status["trialsSucceeded"], status["trialsEarlyStopped"]) == (1, 1), status
            stopped, = [t for t in cluster.get("trials")["items"]
                        if t["status"]["conditions"][-1]["type"] == "EarlyStopped"]
            assert stopped["spec"]["earlyStoppingRules"] == [
                {"name": "loss", "value": "5", "comparison": "greater", "startStep": 3}]
            assert "`loss` is 9, greater than 5" in stopped["status"]["conditions"][-1]["message"]
            assert until(lambda: service.told) == [stopped["metadata"]["name"]]
            last = service.asked[-1]
            assert last.db_manager_address == server.at["katib"] and len(last.trials) == 1
            settings = last.experiment.spec.early_stopping.algorithm_settings
            assert [(s.name, s.value) for s in settings] == [("knob", "7")]
            service.refuse = True
            experiment["metadata"]["name"] = "refused"
            cluster.apply(experiment)
            cluster.kubectl("wait", "--for=condition=Failed", "experiment/refused", "--timeout=60s")
            assert "no such knob" in cluster.get("experiment", "refused")["status"]["conditions"][-1]["message"]


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
        assert b"api.v1.beta1.Suggestion" in listed and b"api.v1.beta1.EarlyStopping" in listed and b"grpc.health.v1.Health" in listed
        assert b"api.v1.beta1.DBManager" not in listed and b"inference.GRPCInferenceService" not in listed
        assert b"GetSuggestions" in file and b"ParameterAssignments" in file


def symbol(name):
    return b"\x22" + bytes([len(name)]) + name.encode()


def test_other_machines_are_let_in_only_when_told_so():
    refused = run("suggest", "--port", 0, "--address", "0.0.0.0", check=False)
    assert refused.returncode == 2 and "--allow-remote" in refused.stderr, refused.stderr
    wrong = run("suggest", "--port", 70000, check=False)
    assert wrong.returncode == 2 and "70000" in wrong.stderr and wrong.stdout == ""
