"""Derives fields.txt from the .proto files that Kubernetes publishes for each API group.

    derive.py PROTO_DIR OPENAPI_V2_JSON > fields.txt

PROTO_DIR holds one file per package: core.proto, batch.proto, … , meta.proto, resource.proto,
intstr.proto, runtime.proto, apiextensions.proto. The OpenAPI document (this server's own /openapi/v2)
tells which fields the served version has; newer ones are left out.
"""

import json
import re
import sys
from pathlib import Path

ROOTS = """core.Namespace core.Node core.ConfigMap core.Secret core.Pod core.Service core.ServiceAccount
core.Event core.PersistentVolumeClaim apps.Deployment apps.ReplicaSet batch.Job rbac.Role rbac.RoleBinding
rbac.ClusterRole rbac.ClusterRoleBinding coordination.Lease events.Event
apiextensions.CustomResourceDefinition authorization.SelfSubjectAccessReview meta.DeleteOptions""".split()
PREFIXES = {
    "core": "io.k8s.api.core.v1.", "batch": "io.k8s.api.batch.v1.", "apps": "io.k8s.api.apps.v1.",
    "rbac": "io.k8s.api.rbac.v1.", "coordination": "io.k8s.api.coordination.v1.",
    "events": "io.k8s.api.events.v1.", "authorization": "io.k8s.api.authorization.v1.",
    "meta": "io.k8s.apimachinery.pkg.apis.meta.v1.",
    "apiextensions": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.",
}
SCALARS = {"string": "s", "bytes": "b", "bool": "t", "int32": "i", "int64": "i", "uint32": "i",
           "uint64": "i", "double": "d"}
# Go embeds these structs, so that JSON has their fields in place of them.
INLINE = {"localObjectReference", "ephemeralContainerCommon", "handler", "volumeSource", "volumeStatus"}
FIELD = re.compile(r"^\s*(optional|repeated)?\s*(map<string,\s*([\w.]+)>|[\w.]+)\s+(\w+)\s*=\s*(\d+);")


def short(package, name):
    """`.k8s.io.api.core.v1.Pod` and `Pod` alike as `core.Pod`."""
    parts = name.lstrip(".").split(".")
    if len(parts) == 1:
        return f"{package}.{name}"
    parts = [part for part in parts[:-1] if not re.fullmatch(r"v1", part)] + parts[-1:]
    return f"{parts[-2]}.{parts[-1]}"


def json_name(message, name):
    """The JSON name, where it is not the proto name."""
    if message == "apiextensions.JSONSchemaProps":
        if name in ("schema", "ref"):
            return "$" + name
        if name.startswith("xKubernetes"):
            return re.sub(r"[A-Z]", lambda m: "-" + m.group().lower(), name)
    return name


def main():
    directory, openapi = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    messages = {}
    for file in sorted(directory.glob("*.proto")):
        message = None
        for line in file.read_text().splitlines():
            if start := re.match(r"^message (\w+) {", line):
                message = f"{file.stem}.{start.group(1)}"
                messages[message] = []
            elif line.startswith("}"):
                message = None
            elif message and (field := FIELD.match(line)):
                label, kind, value, name, number = field.groups()
                mark = "%" if value else "*" if label == "repeated" else ""
                kind = value or kind
                kind = SCALARS.get(kind) or short(file.stem, kind)
                messages[message].append((int(number), json_name(message, name), mark, kind))
    wanted, seen = list(ROOTS), set()
    while wanted:
        message = wanted.pop()
        if message in seen:
            continue
        seen.add(message)
        # Alpha packages are not among the files, nor among what is served.
        messages[message] = [f for f in messages[message] if "." not in f[3] or f[3] in messages]
        wanted += [kind for _, _, _, kind in messages[message] if "." in kind]
    for message in sorted(seen):
        package, name = message.split(".")
        known = openapi["definitions"].get(PREFIXES.get(package, "?") + name, {}).get("properties")
        print(message)
        for number, field, mark, kind in sorted(messages[message]):
            if known is None or field in known:
                print(f" {number} {field} {mark}{kind}")
            elif field in INLINE:
                print(f" {number} {field} ~{kind}")


main()
