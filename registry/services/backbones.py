"""Backbones: pinned once, never changed."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.database.schema import BackbonePrefixRow, BackboneRow
from registry.domain.records import Backbone, NewBackbone
from registry.errors import AlreadyExists
from registry.fault_points import reached
from registry.services.audit import record_event
from registry.services.lookups import find_backbone


def pin_backbone(session: Session, new: NewBackbone, *, actor: str, at: datetime) -> Backbone:
    """Records a backbone whose blobs are in the store; pinning the same content again gives the one that exists.

    Raises:
        AlreadyExists: the name is taken by another content.
        ValueError: there is not one digest and one blob for every layer.
    """
    if not new.layer_count == len(new.layers) == len(new.layer_digests) == len(new.prefix_digests) - 1:
        raise ValueError(f"backbone {new.name}: layers, digests and layer_count do not agree")
    if (existing := _pinned(session, new)) is not None:
        return existing
    try:
        with session.begin_nested():
            row = _insert(session, new, at)
    except IntegrityError:
        if (existing := _pinned(session, new)) is None:
            raise
        return existing  # somebody else pinned it meanwhile
    after = {"model_type": new.model_type, "layer_count": new.layer_count, "max_length": new.max_length}
    after["prefix_digest"] = new.prefix_digests[-1]
    record_event(session, "backbone.pin", f"backbone {new.name}", actor=actor, at=at, after=after)
    return _record(row, _prefixes(session, row))


def _pinned(session: Session, new: NewBackbone) -> Backbone | None:
    """The backbone of this name; raises AlreadyExists when it has other content."""
    row = session.scalar(select(BackboneRow).where(BackboneRow.name == new.name))
    if row is None:
        return None
    existing = _record(row, _prefixes(session, row))
    if _content(existing) != _content(new):
        raise AlreadyExists(f"backbone {new.name} already exists with other content: choose another name")
    return existing


def get_backbone(session: Session, name: str) -> Backbone:
    """The backbone of this name; raises UsageError or NotFound."""
    return record_of(session, find_backbone(session, name))


def record_of(session: Session, row: BackboneRow) -> Backbone:
    """A backbone that has been found already."""
    return _record(row, _prefixes(session, row))


def list_backbones(session: Session, *, names: Collection[str] | None = None) -> list[Backbone]:
    """All backbones, or those of these names, by name."""
    query = select(BackboneRow).order_by(BackboneRow.name)
    of_prefixes = select(BackbonePrefixRow).order_by(BackbonePrefixRow.depth)
    if names is not None:
        query = query.where(BackboneRow.name.in_(names))
        of_prefixes = of_prefixes.join(BackboneRow).where(BackboneRow.name.in_(names))
    rows = session.scalars(query).all()  # first: one that is pinned meanwhile has prefixes too many, never too few
    prefixes: dict[int, list[BackbonePrefixRow]] = {}
    for prefix in session.scalars(of_prefixes):
        prefixes.setdefault(prefix.backbone_id, []).append(prefix)
    return [_record(row, prefixes[row.id]) for row in rows]


def _content(backbone: NewBackbone) -> dict[str, Any]:
    """Everything but where and when it was found."""
    return backbone.model_dump(mode="json", exclude={"source", "created_at"})


def _insert(session: Session, new: NewBackbone, at: datetime) -> BackboneRow:
    row = BackboneRow(
        name=new.name,
        model_type=new.model_type,
        layer_count=new.layer_count,
        hidden_size=new.hidden_size,
        max_length=new.max_length,
        config=dict(new.config),
        prefix_root=dict(new.prefix_root),
        tokenizer=new.tokenizer,
        embeddings=new.embeddings,
        source=new.source,
        created_at=at,
    )
    session.add(row)
    session.flush()
    reached("backbone.row-written")
    session.add(BackbonePrefixRow(backbone_id=row.id, depth=0, prefix_digest=new.prefix_digests[0]))
    layers = zip(new.prefix_digests[1:], new.layer_digests, new.layers, strict=True)
    for depth, (prefix_digest, layer_digest, blob) in enumerate(layers, 1):
        session.add(
            BackbonePrefixRow(
                backbone_id=row.id,
                depth=depth,
                prefix_digest=prefix_digest,
                layer_digest=layer_digest,
                layer_blob=blob,
            )
        )
    session.flush()
    reached("backbone.prefixes-written")
    return row


def _prefixes(session: Session, row: BackboneRow) -> Sequence[BackbonePrefixRow]:
    query = select(BackbonePrefixRow).where(BackbonePrefixRow.backbone_id == row.id)
    return session.scalars(query.order_by(BackbonePrefixRow.depth)).all()


def _record(row: BackboneRow, prefixes: Sequence[BackbonePrefixRow]) -> Backbone:
    return Backbone(
        name=row.name,
        model_type=row.model_type,
        layer_count=row.layer_count,
        hidden_size=row.hidden_size,
        max_length=row.max_length,
        config=row.config,
        prefix_root=row.prefix_root,
        layer_digests=tuple(prefix.layer_digest for prefix in prefixes if prefix.layer_digest is not None),
        prefix_digests=tuple(prefix.prefix_digest for prefix in prefixes),
        tokenizer=row.tokenizer,
        embeddings=row.embeddings,
        layers=tuple(prefix.layer_blob for prefix in prefixes if prefix.layer_blob is not None),
        source=row.source,
        created_at=row.created_at,
    )
