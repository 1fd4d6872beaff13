from typing import Any

import pytest

from registry.database.engine import Database
from registry.domain.records import Backbone
from registry.errors import AlreadyExists, NotFound, UsageError
from registry.services.audit import list_events
from registry.services.backbones import get_backbone, list_backbones, pin_backbone


def test_a_backbone_is_kept_as_it_was_pinned(database: Database, new_backbone: Any, change: dict[str, Any]) -> None:
    new = new_backbone()
    with database.write() as session:
        pinned = pin_backbone(session, new, **change)
    assert pinned == Backbone(**new.model_dump(), created_at=change["at"])
    with database.read() as session:
        assert get_backbone(session, "tiny") == pinned


def test_pinning_the_same_content_again_changes_nothing(
    registry: Database, new_backbone: Any, change: dict[str, Any]
) -> None:
    with registry.write() as session:
        before = get_backbone(session, "tiny")
        assert pin_backbone(session, new_backbone(source="/another/copy"), **change) == before
        assert [event.action for event in list_events(session, object="backbone tiny")] == ["backbone.pin"]


@pytest.mark.parametrize("fields", [{"content": "two"}, {"max_length": 8}, {"config": {"hidden_size": 9}}])
def test_a_name_keeps_its_content(
    registry: Database, new_backbone: Any, change: dict[str, Any], fields: dict[str, Any]
) -> None:
    with (
        pytest.raises(AlreadyExists, match="backbone tiny already exists with other content"),
        registry.write() as session,
    ):
        pin_backbone(session, new_backbone(**fields), **change)


def test_backbones_are_listed_by_name_with_their_own_layers(
    registry: Database, new_backbone: Any, change: dict[str, Any]
) -> None:
    with registry.write() as session:
        pin_backbone(session, new_backbone("large", content="two"), **change)
    with registry.read() as session:
        listed = list_backbones(session)
        assert [backbone.name for backbone in listed] == ["large", "tiny"]
        assert listed == [get_backbone(session, "large"), get_backbone(session, "tiny")]
    assert listed[0].layers != listed[1].layers


def test_a_backbone_without_a_digest_for_every_layer_is_a_mistake_of_the_caller(
    database: Database, new_backbone: Any, change: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="do not agree"), database.write() as session:
        pin_backbone(session, new_backbone(layer_count=5), **change)


def test_an_unknown_backbone_is_answered_with_near_names(registry: Database) -> None:
    with registry.read() as session:
        with pytest.raises(NotFound, match=r"no backbone 'tinny': did you mean tiny\? `trunkline backbone list`"):
            get_backbone(session, "tinny")
        with pytest.raises(UsageError, match="backbone: 'a/b' is not a name"):
            get_backbone(session, "a/b")
