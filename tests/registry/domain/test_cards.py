"""The metadata of model cards."""

from typing import Any

import pytest

from registry.domain.cards import base_model


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("google-bert/bert-base-uncased@86b5e0934494bd15c9632b12f734a8a67f723594", "google-bert/bert-base-uncased"),
        ("/srv/models/minilm", "tiny"),
        ("/home/ann/models@v2/minilm", "tiny"),
    ],
)
def test_the_base_model_is_a_hubs_name_and_never_a_path(new_backbone: Any, source: str, named: str) -> None:
    assert base_model(new_backbone(source=source)) == named
