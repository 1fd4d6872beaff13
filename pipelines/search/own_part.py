"""Of a search's trials what is its own: no more than it asked for, whatever other searches did with them later."""

from pipelines.search.plan import next_step
from pipelines.search.runs import Run, has_reached
from registry.domain.searches import LedgerTrial, Search, TrialShape, TrialState


def own_part(search: Search) -> Search:
    """The search with each trial as far as the search itself wanted it.

    Trials belong to their task: one that this search stopped early may have been finished for another one. The plan is
    a pure function of the trials, so it tells how far each was wanted. Left as it is: a search that is not finished, a
    trial that the plan does not ask for any more, and all of a search that the plan would decide otherwise now.
    """
    if search.choice is None:
        return search
    shared = {trial.shape: trial for trial in search.trials}
    own: dict[TrialShape, LedgerTrial] = {}
    while True:
        step = next_step(search.options, search.backbone_layers, list(own.values()))
        if step.choice is not None:
            break
        wanted = [run for run in step.wanted if run.shape in shared and has_reached(shared[run.shape], run)]
        if not wanted or len(wanted) < len(step.wanted):
            return search
        own |= {run.shape: _up_to(shared[run.shape], run) for run in wanted}
    if step.choice != search.choice:
        return search
    return search.model_copy(update={"trials": tuple(own.get(one.shape, one) for one in search.trials)})


def _up_to(trial: LedgerTrial, run: Run) -> LedgerTrial:
    """As it stood when it had reached the run's epoch; one that failed before that, as it is."""
    if run.until_epoch >= trial.epochs or run.until_epoch not in trial.curve:
        return trial
    share = run.until_epoch / max(1, trial.epochs_done)
    return trial.model_copy(
        update={
            "state": TrialState.PAUSED,
            "epochs_done": run.until_epoch,
            "curve": {epoch: value for epoch, value in trial.curve.items() if epoch <= run.until_epoch},
            "score": None,
            "version": None,
            "error": None,
            "layer_passes": trial.layer_passes * share,
            "seconds": trial.seconds * share,  # about: nobody noted when which epoch was done
            "worker": None,
            "lease_until": None,
        }
    )
