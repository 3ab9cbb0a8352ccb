"""The contract of density schedules, walked over the registry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gap
from core.errors import InputError

SCHEDULES = {
    "one_shot": gap.OneShot(at=7),
    "staged": gap.Staged(at=(2, 5, 9)),
    "cubic": gap.Cubic(begin=3, end=13, every=4),
    "cosine": gap.Cosine(begin=3, end=13, every=4),
    "piecewise": gap.Piecewise(at=(2, 5, 9), densities=(0.75, 0.5)),
    "constant": gap.Constant(every=3),
}
LAST = {"one_shot": 7, "staged": 9, "cubic": 13, "cosine": 13, "piecewise": 9}


def test_every_registered_schedule_is_in_the_table():
    assert {k: type(v) for k, v in SCHEDULES.items()} == gap.SCHEDULES


@pytest.fixture(params=sorted(LAST))
def name(request):
    return request.param


@given(final=st.floats(2**-10, 1.0, width=32))
@pytest.mark.parametrize("name", sorted(LAST))
def test_density_falls_from_one_to_exactly_final(name, final):
    schedule = SCHEDULES[name]
    steps = jnp.arange(LAST[name] + 4)
    density = np.asarray(jax.vmap(lambda s: schedule.density(s, final))(steps))
    assert density[0] == 1.0
    assert np.all(np.diff(density) <= 0)
    assert np.all(density[LAST[name] :] == np.float32(final))


def test_the_last_due_step_reaches_the_end(name):
    schedule = SCHEDULES[name]
    due = [s for s in range(30) if bool(schedule.due(jnp.int32(s)))]
    assert due[-1] == LAST[name]
    assert hash(schedule) == hash(type(schedule)(**vars(schedule)))


def test_due_steps():
    def steps(s):
        return [i for i in range(20) if bool(s.due(jnp.int32(i)))]

    assert steps(gap.OneShot(4)) == [4]
    assert steps(gap.Staged((1, 6))) == [1, 6]
    assert steps(gap.Cubic(2, 11, 3)) == [2, 5, 8, 11]
    assert steps(gap.Cosine(2, 10, 3)) == [2, 5, 8, 10]
    assert steps(gap.Piecewise((3, 6), (0.5,))) == [3, 6]
    assert steps(gap.Constant(6)) == [0, 6, 12, 18]
    assert steps(gap.Constant()) == [0]  # nothing is ranked again where nothing grows


def test_a_constant_density_has_no_way_there():
    steps = jnp.arange(5)
    density = jax.vmap(lambda s: gap.Constant(2).density(s, 0.3))(steps)
    np.testing.assert_array_equal(density, np.full(5, np.float32(0.3)))


def test_cosine_passes_the_middle_halfway():
    schedule = gap.Cosine(begin=10, end=110)
    got = [float(schedule.density(jnp.int32(s), 0.2)) for s in (5, 10, 35, 60, 110)]
    quarter = 0.2 + 0.8 * (1 + np.cos(np.pi / 4)) / 2
    np.testing.assert_allclose(got, [1, 1, quarter, 0.6, 0.2], rtol=1e-6)


def test_pieces_hold_their_densities_but_never_less_than_final():
    schedule = gap.Piecewise((2, 5, 9), (0.75, 0.5))
    steps = (1, 2, 4, 5, 8, 9, 30)

    def densities(final):
        return [float(schedule.density(jnp.int32(s), final)) for s in steps]

    assert densities(0.25) == [1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]
    assert densities(0.625) == [1, 0.75, 0.75, 0.625, 0.625, 0.625, 0.625]
    assert gap.Piecewise((4,), ()) == gap.Piecewise([4], [])


def test_cubic_is_the_published_polynomial():
    schedule = gap.Cubic(begin=10, end=110, every=10)
    got = float(schedule.density(jnp.int32(60), 0.1))
    assert got == pytest.approx(0.1 + 0.9 * 0.5**3, rel=1e-6)


def test_stages_remove_equal_shares_of_what_is_left():
    schedule = gap.Staged((0, 10, 20, 30))
    d = [float(schedule.density(jnp.int32(s), 0.0625)) for s in (0, 10, 20, 30)]
    np.testing.assert_allclose(d, [0.5, 0.25, 0.125, 0.0625], rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gap.OneShot(-1),
        lambda: gap.Staged(()),
        lambda: gap.Staged((5, 5)),
        lambda: gap.Staged((-1, 5)),
        lambda: gap.Cubic(5, 5),
        lambda: gap.Cubic(0, 5, 0),
        lambda: gap.Cosine(5, 4),
        lambda: gap.Piecewise((5, 4), (0.5,)),
        lambda: gap.Piecewise((1, 2), (0.5, 0.2)),
        lambda: gap.Piecewise((1, 2, 3), (0.2, 0.5)),
        lambda: gap.Piecewise((1, 2), (1.5,)),
        lambda: gap.Constant(0),
    ],
)
def test_bad_schedules_are_refused(make):
    with pytest.raises(InputError):
        make()
