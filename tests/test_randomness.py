import math

import pytest
import torch

from denoiselab.randomness import SampleNoise, generator, reseed, seed_for, uniform


def test_a_seed_is_the_same_in_every_process():
    # Computed once and written down: another value here would change every published image.
    assert seed_for(0, "sample", 0) == 6786282637489265118
    assert seed_for(0, "train", 100, 3) == 5262235008075576533


def test_seeds_of_different_keys_differ():
    keys = [(), (0,), (1,), ("1",), (1, 23), (12, 3), (123,), ("1, 2",), (1, 2), (0, "train"), (0, "sample")]
    keys += [(0, "sample", i) for i in range(1000)]
    seeds = [seed_for(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_starts_at_its_seed():
    first = torch.randn(5, generator=generator(0, "train", 1))
    assert torch.equal(torch.randn(5, generator=generator(0, "train", 1)), first)
    assert torch.equal(torch.randn(5, generator=torch.Generator().manual_seed(seed_for(0, "train", 1))), first)


def draws(indices, shape=(3, 8, 8), n=3, dtype=torch.float32, **kwargs):
    noise, x = SampleNoise(0, indices, **kwargs), torch.empty(len(indices), *shape, dtype=dtype)
    return torch.stack([noise(x) for _ in range(n)], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (2,), (3, 8, 8)])
def test_a_sample_s_noise_does_not_depend_on_batch_size_or_order(shape, dtype):
    whole = draws(range(8), shape, dtype=dtype)
    assert torch.equal(torch.cat([draws(part, shape, dtype=dtype) for part in ([0], [1, 2, 3], range(4, 8))]), whole)
    order = [5, 2, 7, 0]
    assert torch.equal(draws(order, shape, dtype=dtype), whole[order])
    assert whole.dtype == dtype


def test_samples_draws_purposes_and_seeds_all_differ():
    whole = draws(range(8))
    assert len(torch.unique(whole.flatten(0, 1)[:, 0, 0, 0])) == 24
    assert not torch.equal(draws(range(8), purpose="val"), whole)
    assert not torch.equal(SampleNoise(1, range(8))(torch.empty(8, 3, 8, 8)), whole[:, 0])


def test_draws_of_a_number_are_those_of_the_generator_of_its_keys():
    """In this order of the keys: in another one every published image would be another."""
    first = torch.randn(2, 3, generator=generator(5, "sample", 7))
    assert torch.equal(SampleNoise(5, [7])(torch.empty(1, 2, 3))[0], first)
    assert torch.equal(uniform(3, "mask", [7])[0], torch.rand(3, generator=generator("mask", 7)))


def test_reseeding_sets_the_global_generator_by_its_keys():
    drawn = []
    for keys in ((0, "dropout", 1), (0, "dropout", 2), (0, "dropout", 1)):
        reseed(torch.device("cpu"), *keys)
        drawn.append(torch.rand(5))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], torch.rand(5, generator=generator(0, "dropout", 1)))


FAR_APART = [*range(300), 1_000, 65_535, 65_536, 10**6, 2**31, 2**32, 2**40]


def test_numbers_however_far_apart_have_numbers_of_their_own():
    """Of 63-bit seeds, two of these hundreds are the same with a chance of 1e-14."""
    noise = SampleNoise(0, FAR_APART)(torch.empty(len(FAR_APART), 4, dtype=torch.float64))
    assert len(noise.unique(dim=0)) == len(FAR_APART)
    drawn = uniform(4, "mask", FAR_APART)
    assert len(drawn.unique(dim=0)) == len(FAR_APART)
    assert torch.equal(uniform(4, "mask", FAR_APART[::-1]), drawn.flip(0))
    assert torch.equal(uniform(4, "mask", FAR_APART[7:8]), drawn[7:8])
    assert not torch.equal(uniform(4, "caption", FAR_APART), drawn)
    assert uniform(4, "mask", []).shape == (0, 4)


@pytest.mark.parametrize("shape", [(), (2,), (3, 8, 8)])
def test_noise_is_standard_normal_and_uncorrelated_between_draws(shape):
    # Standard errors over n numbers: mean 1/sqrt(n), variance sqrt(2/n), fourth moment sqrt(96/n). Four of each.
    z = draws(range(4000), shape, n=2, dtype=torch.float64)
    n = z.numel()
    assert float(z.mean()) == pytest.approx(0, abs=4 / math.sqrt(n))
    assert float(z.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / n))
    assert float((z**4).mean()) == pytest.approx(3, abs=4 * math.sqrt(96 / n))
    assert float((z[:, 0] * z[:, 1]).mean()) == pytest.approx(0, abs=4 / math.sqrt(n / 2))
    assert float((z[1:] * z[:-1]).mean()) == pytest.approx(0, abs=4 / math.sqrt(n))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    draws(range(3))
    generator(0, "anything")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_of_another_size_than_the_indices_is_refused():
    with pytest.raises(ValueError, match="zip"):
        SampleNoise(0, range(3))(torch.empty(2, 4))
