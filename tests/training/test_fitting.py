import pytest

from medloop.params import Train
from medloop.training import backend

NULL = {"loss": 1.0, "val_loss": 1.0, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def fitting():
    backend.start("tensorflow", seed=0)
    from medloop.training import fitting

    return fitting


def after(fitting, *scores):
    state = fitting.State()
    for score in scores:
        state = fitting.advanced(state, {**NULL, "val_auc": score}, "auc")
    return state


def test_the_first_of_equally_good_epochs_is_the_best(fitting):
    state = after(fitting, 0.5, 0.9, 0.7, 0.9)
    assert (state.epoch, state.best_epoch, state.best_score) == (4, 2, 0.9)
    assert [entry["epoch"] for entry in state.history] == [1, 2, 3, 4]


def test_the_last_epoch_is_kept_where_a_parameter_says_so(fitting):
    state = fitting.State()
    for score in (0.5, 0.9, 0.7):
        state = fitting.advanced(state, {**NULL, "val_auc": score}, "auc", "last")
    assert (state.best_epoch, state.best_score) == (3, 0.7)


def test_training_stops_after_patience_epochs_without_a_better_one(fitting):
    section = Train(epochs=10, patience=2)
    assert not fitting.finished(fitting.State(), section)
    assert not fitting.finished(after(fitting, 0.9, 0.8), section)
    assert fitting.finished(after(fitting, 0.9, 0.8, 0.8), section)
    assert not fitting.finished(after(fitting, 0.9, 0.8, 0.95), section)
    assert fitting.finished(after(fitting, *[0.01 * i for i in range(10)]), section)


def test_a_cosine_begins_at_the_rate_and_falls(fitting):
    section = Train(epochs=10, learning_rate=0.2, schedule="cosine")
    rates = [fitting.rate(section, epoch) for epoch in range(1, 11)]
    assert rates[0] == 0.2
    assert rates[5] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.01
    assert {fitting.rate(Train(epochs=10, learning_rate=0.2), epoch) for epoch in range(1, 11)} == {0.2}
