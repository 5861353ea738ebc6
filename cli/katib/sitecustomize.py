"""Lets Katib's SDK find the server that started this process.

In a cluster, `kubeflow.katib.report_metrics` finds its namespace in a file of the pod and the DBManager under a
name of the cluster's DNS. A process of `mizzen` has neither, so both are put in place as the SDK is imported,
from the environment. Programs that do not import the SDK are left alone; a `sitecustomize` of the machine's own
runs as it would without this one.
"""

import os
import sys
from importlib.machinery import PathFinder

HERE = os.path.dirname(os.path.abspath(__file__))


def address(constants):
    constants.DEFAULT_DB_MANAGER_ADDRESS = os.environ["KATIB_DB_MANAGER_ADDRESS"]


def namespace(utils):
    in_pod = utils.get_current_k8s_namespace

    def get_current_k8s_namespace():
        try:
            return in_pod()
        except OSError:
            return os.environ.get("KATIB_TRIAL_NAMESPACE", "default")

    utils.get_current_k8s_namespace = get_current_k8s_namespace


CHANGES = {"kubeflow.katib.constants.constants": address, "kubeflow.katib.utils.utils": namespace}


class Finder:
    """Changes the modules above right after they were loaded, by whatever loads them."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in CHANGES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            CHANGES[name](module)

        spec.loader.exec_module = exec_module
        return spec


def machines_own():
    others = [path for path in sys.path if os.path.abspath(path or os.curdir) != HERE]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        from importlib.util import module_from_spec

        spec.loader.exec_module(module_from_spec(spec))


if "KATIB_DB_MANAGER_ADDRESS" in os.environ:
    sys.meta_path.insert(0, Finder)
machines_own()
