"""What the tests of serving and publishing share: a small model and its handler, a small Hub and a client of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub, running_hub
from publishing_parts import Client, client_environment, running_client
from serving_parts import save_model

from hf_ascdistill.hub.handler import EndpointHandler


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A small CP-Mobile, saved."""
    return save_model("cp-mobile", tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def handler(model_folder) -> EndpointHandler:
    """A request handler for it."""
    return EndpointHandler(str(model_folder))


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    """A Hub on this machine."""
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory) -> Iterator[Client]:
    """A process with the real client of that Hub."""
    folder = tmp_path_factory.mktemp("client")
    with running_client(folder, client_environment(hub, folder)) as client:
        yield client
