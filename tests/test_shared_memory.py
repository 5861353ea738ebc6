"""Tensors in system shared memory, with the real client's own helpers."""

import os
import uuid

import models
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

CLIENTS = [httpclient, grpcclient]


@pytest.fixture
def repository(tmp_path):
    models.place(tmp_path / "models", "double", models.affine(2.0))
    models.place(tmp_path / "models", "text", models.identity("BYTES"))
    return tmp_path / "models"


@pytest.fixture
def server(repository, serve):
    return serve(repository, "--allow-client-shm")


@pytest.fixture
def region():
    """Makes regions that go with the test."""
    made = []

    def make(size):
        name = f"mizzen-{uuid.uuid4().hex[:12]}"
        made.append(shm.create_shared_memory_region(name, f"/{name}", size))
        return name, made[-1]

    yield make
    for handle in made:
        shm.destroy_shared_memory_region(handle)


def client_of(module, server):
    return module.InferenceServerClient(server.at["http" if module is httpclient else "grpc"])


def ask(module, client, name, shape, in_size, out_size, out_offset=0, in_offset=0, model="double", wire="FP32"):
    tensor = module.InferInput("x", shape, wire)
    tensor.set_shared_memory(name, in_size, in_offset)
    output = module.InferRequestedOutput("y")
    output.set_shared_memory(name, out_size, out_offset)
    return client.infer(model, [tensor], outputs=[output])


@pytest.mark.parametrize("module", CLIENTS)
def test_inputs_and_outputs_go_through_a_region(module, server, region):
    client = client_of(module, server)
    name, handle = region(4096)
    client.register_system_shared_memory(name, f"/{name}", 4096)
    data = np.arange(8, dtype=np.float32).reshape(2, 4)
    shm.set_shared_memory_region(handle, [data], offset=64)
    result = ask(module, client, name, [2, 4], 32, 64, out_offset=1024, in_offset=64)
    assert (shm.get_contents_as_numpy(handle, np.float32, [2, 4], offset=1024) == 2 * data).all()
    output = result.get_output("y")
    parameters = output["parameters"] if module is httpclient else {
        key: value.string_param or value.int64_param for key, value in output.parameters.items()
    }
    assert parameters == {"shared_memory_region": name, "shared_memory_byte_size": 32, "shared_memory_offset": 1024}

    # One in the region, one in the message.
    tensor = module.InferInput("x", [2, 4], "FP32")
    tensor.set_shared_memory(name, 32, 64)
    assert (client.infer("double", [tensor]).as_numpy("y") == 2 * data).all()
    tensor = module.InferInput("x", [2, 4], "FP32")
    tensor.set_data_from_numpy(data + 1)
    output = module.InferRequestedOutput("y")
    output.set_shared_memory(name, 32)
    client.infer("double", [tensor], outputs=[output])
    assert (shm.get_contents_as_numpy(handle, np.float32, [2, 4]) == 2 * (data + 1)).all()


@pytest.mark.parametrize("module", CLIENTS)
def test_text_goes_through_a_region(module, server, region):
    client = client_of(module, server)
    name, handle = region(4096)
    client.register_system_shared_memory(name, f"/{name}", 4096)
    data = np.array([[b"a", b"", "\u00e9".encode(), b"xyz"]], np.object_)
    wire = serialize_byte_tensor(data)
    size = len(wire.item())
    shm.set_shared_memory_region(handle, [wire])
    ask(module, client, name, [1, 4], size, 1024, out_offset=2048, model="text", wire="BYTES")
    assert (shm.get_contents_as_numpy(handle, np.object_, [1, 4], offset=2048) == data).all()


@pytest.mark.parametrize("module", CLIENTS)
def test_regions_are_registered_shown_and_forgotten(module, server, region):
    client = client_of(module, server)

    def names():
        status = client.get_system_shared_memory_status()
        return {r["name"] for r in status} if module is httpclient else set(status.regions)

    (first, _), (second, _) = region(4096), region(4096)
    client.register_system_shared_memory(first, f"/{first}", 1000, offset=24)
    client.register_system_shared_memory(second, second, 4096)
    assert names() == {first, second}
    status = client.get_system_shared_memory_status(first)
    one = status[0] if module is httpclient else status.regions[first]
    get = one.get if module is httpclient else lambda key: getattr(one, key)
    assert [get(key) for key in ("name", "key", "offset", "byte_size")] == [first, f"/{first}", 24, 1000]
    with pytest.raises(InferenceServerException, match="registered already"):
        client.register_system_shared_memory(first, f"/{first}", 10)
    client.unregister_system_shared_memory(first)
    assert names() == {second}
    with pytest.raises(InferenceServerException, match="unable to find"):
        client.get_system_shared_memory_status(first)
    client.unregister_system_shared_memory()
    assert names() == set()


@pytest.mark.parametrize("module", CLIENTS)
def test_what_does_not_fit_is_said(module, server, region):
    client = client_of(module, server)
    name, _ = region(4096)
    client.register_system_shared_memory(name, f"/{name}", 4096)
    cases = [
        ("the input's size", dict(in_size=16, out_size=32), "needs 32 bytes; `shared_memory_byte_size` is 16"),
        ("the output's room", dict(in_size=32, out_size=16), "output `y` needs 32 bytes; its part of shared memory region .* has 16"),
        ("beyond the region", dict(in_size=32, out_size=32, out_offset=4080), "names 32 bytes from offset 4080"),
        ("an overflow", dict(in_size=32, out_size=32, in_offset=2**63 - 1), "which has 4096"),
    ]
    for shows, sizes, words in cases:
        with pytest.raises(InferenceServerException, match=words):
            ask(module, client, name, [2, 4], **sizes)
            pytest.fail(shows)
    with pytest.raises(InferenceServerException, match="unable to find system shared memory region `none`"):
        ask(module, client, "none", [2, 4], 32, 32)


@pytest.mark.parametrize("module", CLIENTS)
def test_a_region_that_shrinks_is_an_error_and_the_server_lives(module, server, region):
    client = client_of(module, server)
    name, _ = region(1 << 20)
    client.register_system_shared_memory(name, f"/{name}", 1 << 20)
    os.truncate(f"/dev/shm/{name}", 16)
    with pytest.raises(InferenceServerException, match="has shrunk.*now has 16"):
        ask(module, client, name, [2, 4], 32, 32, in_offset=65536)
    tensor = module.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
    output = module.InferRequestedOutput("y")
    output.set_shared_memory(name, 32, 65536)
    with pytest.raises(InferenceServerException, match="has shrunk"):
        client.infer("double", [tensor], outputs=[output])
    assert client.is_server_live()
    os.truncate(f"/dev/shm/{name}", 1 << 20)


@pytest.mark.parametrize("module", CLIENTS)
@pytest.mark.parametrize("key", ["/../etc/passwd", "/a/b", "/etc/passwd", "..", "/"])
def test_keys_lead_nowhere_else(module, key, server):
    with pytest.raises(InferenceServerException, match="without `/` but for the first character"):
        client_of(module, server).register_system_shared_memory("r", key, 1)


@pytest.mark.parametrize("module", CLIENTS)
def test_it_is_off_unless_allowed(module, repository, serve, region):
    server = serve(repository)
    client = client_of(module, server)
    name, _ = region(4096)
    for call in (lambda: client.register_system_shared_memory(name, f"/{name}", 4096),
                 lambda: client.unregister_system_shared_memory(),
                 lambda: ask(module, client, name, [2, 4], 32, 32)):
        with pytest.raises(InferenceServerException, match="--allow-client-shm") as refused:
            call()
        assert refused.value.status() in ("501", "StatusCode.UNIMPLEMENTED")
    status = client.get_system_shared_memory_status()
    assert (status if module is httpclient else list(status.regions)) == []


@pytest.mark.parametrize("module", CLIENTS)
def test_cuda_shared_memory_is_refused_in_words(module, server):
    import base64

    client = client_of(module, server)
    with pytest.raises(InferenceServerException, match="CUDA shared memory is not supported") as refused:
        client.register_cuda_shared_memory("r", base64.b64encode(b"x" * 64), 0, 64)
    assert refused.value.status() in ("501", "StatusCode.UNIMPLEMENTED")
    client.unregister_cuda_shared_memory()
    status = client.get_cuda_shared_memory_status()
    assert (status if module is httpclient else list(status.regions)) == []
