"""A cluster as far as one can be had without containers: an API server and a node without controllers, which the
chart's own CRDs are given to, and `mizzen operator` beside them, through a socket and a kubeconfig."""

import contextlib
import json
import subprocess

from conftest import ENVIRONMENT, KUBECTL, MIZZEN, ROOT, up

CHART = ROOT / "charts/mizzen"


class Cluster:
    def __init__(self, directory, address):
        self.kubeconfig = directory / "kubeconfig"
        self.operator_log = directory / "operator.log"
        self.katib = None
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://{address}"}}],
            "users": [{"name": "c", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]}))

    def kubectl(self, *command, input=None):
        done = subprocess.run([KUBECTL, "--kubeconfig", str(self.kubeconfig), *command], input=input, text=True,
                              capture_output=True, timeout=90, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *what):
        return json.loads(self.kubectl("get", *what, "-o", "json"))

    def apply(self, thing):
        self.kubectl("apply", "-f", "-", input=json.dumps(thing))

    def ended(self, experiment, timeout=60):
        """The experiment, once it has succeeded."""
        self.kubectl("wait", "--for=condition=Succeeded", f"experiment/{experiment}", f"--timeout={timeout}s")
        return self.get("experiment", experiment)


@contextlib.contextmanager
def operated(directory, *flags):
    with up(directory / "cluster", "--no-controllers") as server:
        cluster = Cluster(directory, server.at["api"])
        cluster.kubectl("apply", "-f", str(CHART / "crds"))
        shared = directory / "shared"
        shared.mkdir()
        with open(cluster.operator_log, "w") as log:
            operator = subprocess.Popen(
                [MIZZEN, "operator", "--data-dir", str(shared), *map(str, flags)], stdout=subprocess.PIPE, text=True,
                stderr=log, env={**ENVIRONMENT, "KUBECONFIG": str(cluster.kubeconfig)})
            try:
                words = operator.stdout.readline().split()
                assert words[:2] == ["ready", "operator"], cluster.operator_log.read_text()
                cluster.katib = dict(word.split("=", 1) for word in words[2:]).get("katib")
                yield cluster
            finally:
                operator.terminate()
                assert operator.wait(20) == 0
