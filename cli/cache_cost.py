"""What the frozen activations of a trial or a search take on the disk, said before any of them is written."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from cli.application import Context
from cli.rendering import print_note, print_warning, working
from registry.domain.manifests import HeadConfig
from registry.domain.records import Backbone

if TYPE_CHECKING:
    from pipelines.data.dataset import Dataset
    from pipelines.training.recipes import Precision


def say_cache_cost(
    context: Context,
    backbone: Backbone,
    *,
    train: "Dataset",
    dev: "Dataset",
    head: HeadConfig,
    precision: "Precision",
    depths: Collection[int],
) -> None:
    """A note; a warning where not all of them can be kept.

    Args:
        precision: of training; dev is kept in fp32.
        depths: where branches leave the trunk, a teacher's too.
    """
    from modeling.backbone import load_text_encoder
    from pipelines.training.activation_cache import EncodedRows
    from pipelines.training.cache_forecast import forecast
    from pipelines.training.cache_room import CacheRoom

    with working("counting what the cache will take"):
        encoder = load_text_encoder(backbone, context.store)
        cost = forecast(
            CacheRoom(context.settings.home / "cache", context.settings.activation_cache_bytes),
            [(EncodedRows.of(train, encoder), precision), (EncodedRows.of(dev, encoder), "fp32")],
            prefix_digests=backbone.prefix_digests,
            depths=depths,
            hidden_size=backbone.hidden_size,
            reading=head.reading if head.gather == "mix" else None,
        )
    (print_note if cost.fits else print_warning)(str(cost))
