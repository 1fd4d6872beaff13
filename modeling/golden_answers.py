"""What a release's modules are known to answer: their golden examples, read from the store."""

from registry.artifacts.store import ArtifactStore
from registry.domain.golden_examples import GoldenExamples, parse_golden_examples
from registry.domain.manifests import BranchManifest
from registry.errors import ArtifactError


def read_golden_examples(task: str, branch: BranchManifest, store: ArtifactStore) -> GoldenExamples:
    """A branch's golden examples; raises ArtifactMissing or ArtifactDamaged naming the version."""
    subject = f"golden examples of {task}/{branch.version}"
    try:
        return parse_golden_examples(store.read(branch.golden), subject)
    except ArtifactError as error:
        raise type(error)(f"{subject}: {error}") from error


def golden_texts(task: str, branch: BranchManifest, store: ArtifactStore) -> list[tuple[str, str | None]]:
    """The inputs of a branch's golden examples; raises what `read_golden_examples` raises."""
    return [(example.text, example.text_pair) for example in read_golden_examples(task, branch, store).examples]
