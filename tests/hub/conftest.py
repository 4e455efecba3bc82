"""What the tests of serving share: a small saved model and a request handler for it."""

from pathlib import Path

import pytest
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
