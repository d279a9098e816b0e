"""Windows are cut within samples, padded or refused, and say where they come from."""

import numpy as np
import pytest

import waves
from medloop import params, signals
from medloop.errors import Refused
from medloop.kinds import Part, sequence


def cut(table, facts, values, **windows):
    form = sequence.form(table, values, facts, waves.section(**windows))
    arrays = np.concatenate([np.asarray(block) for block in sequence.arrays(table, values, form)])
    return form, arrays


@pytest.fixture
def ramps(tmp_path):
    """Three signals whose values are their own places."""
    return waves.samples(tmp_path, [np.arange(n, dtype=np.float32)[:, None] + 1000 * n for n in (30, 24, 40)])


@pytest.mark.parametrize(("window", "stride", "horizon"), [(10, 1, 1), (5, 3, 2), (7, 7, 0), (24, 1, 0)])
def test_windows_are_consecutive_moments_and_the_target_follows_them(ramps, window, stride, horizon):
    table, facts, values = ramps
    form, arrays = cut(table, facts, values, window=window, stride=stride, horizon=horizon)
    index, targets = sequence.index(table, form), sequence.targets(table, values, form)
    assert len(arrays) == len(index) == sequence.counts(table, form).sum()
    offset = {row.sample_id: 1000 * row.shape[0] for row in table.itertuples()}
    first = index["sample_id"].map(offset) + index["start"]
    np.testing.assert_array_equal(arrays[..., 0], first.to_numpy()[:, None] + np.arange(window))
    if horizon:
        np.testing.assert_array_equal(targets, first + window - 1 + horizon)
    else:
        assert targets is None
    for row in table.itertuples():
        starts = index.loc[index["sample_id"] == row.sample_id, "start"]
        assert starts.tolist() == list(range(0, row.shape[0] - window - horizon + 1, stride))


def test_no_moment_of_a_recording_stands_in_windows_of_two_sides(tmp_path):
    from medloop.sources import wfdb

    options = wfdb.Options(records=("a",), gap=20)
    stretches = wfdb._stretches(500, options)
    signals_ = [np.zeros((end - begin, 1), np.float32) for _, begin, end in stretches]
    table, facts, values = waves.samples(
        tmp_path,
        signals_,
        splits=[side for side, _, _ in stretches],
        in_time=True,
        start=[begin for _, begin, _ in stretches],
        study_id=["a"] * 3,
    )
    form = sequence.form(table, values, facts, waves.section(window=10, horizon=1))
    index = sequence.index(table, form).merge(table[["sample_id", "split"]])
    moments = {
        side: {place for start in rows["start"] for place in range(start, start + 11)}
        for side, rows in index.groupby("split")
    }
    assert {side: len(places) > 40 for side, places in moments.items()} == dict.fromkeys(("train", "val", "test"), True)
    assert not moments["train"] & moments["val"]
    assert not moments["val"] & moments["test"]
    assert min(moments["val"]) - max(moments["train"]) > 20
    with pytest.raises(Refused, match="at least a window with its horizon, 31 moments, got 20"):
        sequence.form(table, values, facts, waves.section(window=30, horizon=1))


def test_unequal_lengths_are_refused_or_padded_with_a_mask(ramps):
    table, facts, values = ramps
    with pytest.raises(Refused, match=r"one length, got 24 to 40: set preprocess\.sequence\.unequal: pad"):
        sequence.form(table, values, facts, waves.section())
    form, arrays = cut(table, facts, values, unequal="pad")
    assert form.shape == (40, 2)
    assert arrays[..., 1].sum(axis=1).tolist() == [30, 24, 40]
    assert not arrays[0, 30:].any()
    np.testing.assert_array_equal(arrays[1, :24, 0], values[table.iloc[1]][:, 0])
    cells = [cell for row in table.itertuples() for _, cell in sequence.encoded(row, values[row], form.preprocessing)]
    served = [signals.as_input(cell, form.preprocessing) for cell in cells]
    np.testing.assert_array_equal(np.stack(served), arrays)


def test_a_sample_shorter_than_a_window_is_named(ramps):
    table, facts, values = ramps
    with pytest.raises(Refused, match=r"sample s1 \(val\) has 24 moments, a window with its horizon takes 26"):
        sequence.form(table, values, facts, waves.section(window=25, horizon=1))


def test_samples_that_do_not_belong_together_are_refused(tmp_path):
    several = waves.samples(tmp_path / "leads", [np.zeros((9, c), np.float32) for c in (1, 2, 1)])
    with pytest.raises(Refused, match="one number of leads, got 1, 2"):
        sequence.form(several[0], several[2], several[1], waves.section())
    rates = waves.samples(tmp_path / "rates", [np.zeros((9, 1), np.float32)] * 3, rate_hz=[50.0, 100.0, 50.0])
    with pytest.raises(Refused, match=r"one sampling rate, got 50\.0, 100\.0"):
        sequence.form(rates[0], rates[2], rates[1], waves.section())


def test_blocks_of_neighbouring_windows_are_drawn_together_where_time_is_split(tmp_path):
    table, facts, values = waves.samples(
        tmp_path, [np.zeros((100, 1), np.float32)] * 3, in_time=True, start=[0, 200, 400], study_id=["a"] * 3
    )
    index = sequence.index(table, sequence.form(table, values, facts, waves.section(window=10, block=30)))
    sizes = index.groupby("block").size()
    assert set(sizes) == {30, 1}
    assert index.groupby("block")["sample_id"].nunique().max() == 1


def test_beats_of_one_stretch_of_time_are_drawn_together_where_time_is_split(tmp_path):
    starts = [0, 20, 40, 10]
    table, facts, values = waves.samples(
        tmp_path, [np.zeros((10, 1), np.float32)] * 4, in_time=True, start=starts, study_id=["a", "a", "a", "b"]
    )
    index = sequence.index(table, sequence.form(table, values, facts, waves.section(block=30)))
    assert index["block"].tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"1,2\n3\n", "neither a .npy file nor a table"),
        (b"\x93NUMPYrubbish", "neither a .npy file nor a table"),
        (b"a,b\n1,nan\n2,3\n", "finite numbers, 1 of 2 moments are not"),
        (signals.encode(np.zeros((2, 2, 2))), "a signal must be numbers"),
    ],
)
def test_what_is_no_signal_is_refused_in_our_own_words(content, said):
    with pytest.raises(signals.Unreadable, match=said):
        signals.decode(content)


def test_a_signal_reads_the_same_as_text_and_as_numpy():
    values = np.array([[1.5, -2], [3, 4]], np.float32)
    for text in (b"MLII,V5\n1.5,-2\n3,4\n", b"1.5 -2\n3 4", b"1.5;-2\r\n3;4\r\n"):
        np.testing.assert_array_equal(signals.decode(text), values)
    np.testing.assert_array_equal(signals.decode(signals.encode(values)), values)


def test_leads_of_a_text_go_by_the_names_in_its_first_line():
    text = b"time,V5,I\n0,1,2\n1,3,4\n"
    np.testing.assert_array_equal(signals.decode(text, ["I", "V5"]), [[2, 1], [4, 3]])
    np.testing.assert_array_equal(signals.decode(b"1 2\n3 4\n", ["I", "V5"]), [[1, 2], [3, 4]])
    for header in (b"I,V6\n", b"I,V5,V5\n"):
        with pytest.raises(signals.Unreadable, match="name each of the model's leads once: I, V5"):
            signals.decode(header + b"1,2,3\n" if header.count(b",") > 1 else header + b"1,2\n", ["I", "V5"])


def test_augmentation_knows_scale_and_noise_and_draws_for_the_whole():
    windows = np.random.default_rng(0).normal(size=(6, 20, 2)).astype(np.float32)
    section = params.Augment(contrast=0.2, noise=0.1)
    whole = sequence.augment(windows, section, np.random.default_rng(1))
    part = sequence.augment(windows[2:4], section, np.random.default_rng(1), Part(6, slice(2, 4)))
    np.testing.assert_array_equal(part, whole[2:4])
    assert 0.01 < np.abs(whole - windows).mean() < 0.5
    with pytest.raises(Refused, match="not rotate_deg"):
        sequence.augment(windows, params.Augment(rotate_deg=5), np.random.default_rng(1))


def test_padding_is_neither_counted_nor_changed():
    random = np.random.default_rng(0)
    real = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], np.float32)[..., None]
    values = (5 + random.normal(size=(2, 6, 2)).astype(np.float32)) * real
    arrays = np.concatenate([values, real], axis=-1)
    section = params.Augment(contrast=0.3, noise=0.1)
    changed = sequence.augment(arrays, section, np.random.default_rng(1), None, real)
    np.testing.assert_array_equal(changed[..., -1:], real)
    assert not changed[0, 4:].any()
    assert (changed[0, :4, :2] != arrays[0, :4, :2]).all()
    whole = sequence.augment(values[1:], section, np.random.default_rng(1), Part(2, slice(1, None)))
    np.testing.assert_allclose(changed[1:, :, :2], whole, rtol=1e-5)  # where all is real it is as without a mask
    alone = sequence.augment(values[:1, :4], params.Augment(contrast=0.3), np.random.default_rng(1))
    padded = sequence.augment(arrays[:1], params.Augment(contrast=0.3), np.random.default_rng(1), None, real[:1])
    np.testing.assert_allclose(padded[:, :4, :2], alone, rtol=1e-5)


@pytest.mark.parametrize("kind", ["image", "sample"])
def test_a_padded_sample_is_standardised_by_its_real_moments(kind):
    from medloop.training import backend

    backend.start("tensorflow", seed=0)
    from medloop.training import network

    values = np.random.default_rng(0).normal(3, 2, (1, 9, 2)).astype(np.float32)
    padded = np.zeros((1, 12, 3), np.float32)
    padded[:, :9, :2], padded[:, :9, 2] = values, 1
    found = np.asarray(network.normalised(padded, {"kind": kind, "mask": True}))
    wanted = (values - values.mean()) / np.sqrt(values.var() + network.MIN_VARIANCE)
    np.testing.assert_allclose(found[:, :9, :2], wanted, atol=1e-5)
    assert not found[:, 9:].any()
    np.testing.assert_array_equal(found[..., 2], padded[..., 2])
