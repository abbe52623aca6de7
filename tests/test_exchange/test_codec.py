"""Codecs: sizes, errors, agreement."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from resist_mm.builders import build_codec
from resist_mm.exchange.bits import PIECE, pack_bits, piece_of, unpack_bits
from resist_mm.exchange.changes import Changes
from resist_mm.exchange.codec import BF16, Codec, Quantize, TopK

BLOCK = 1_180_672  # numbers of a block of the CIFAR network
CODECS = [BF16(), *(Quantize(bits) for bits in range(4, 9)), Quantize(5, stochastic=True), TopK(), TopK(0.5)]
CODECS += [*(Changes(bits) for bits in range(2, 9)), Changes(2, share=0.03), Changes(5, share=0.2, chunk=64)]


def _through(codec: Codec, tensor: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
    message = codec.encode(tensor, reference)
    assert message.dtype == torch.uint8
    assert message.shape == (codec.message_bytes(tensor.numel()),)
    out = torch.full_like(tensor, torch.nan)
    codec.decode(message, out, reference)
    return out


@pytest.mark.parametrize(
    ('codec', 'most'),
    [
        (Quantize(8), 0.26),
        (Quantize(6), 0.20),
        (Quantize(4), 0.135),
        (TopK(0.25), 0.29),
        (BF16(), 0.5),
        (Changes(2), 0.065),
        (Changes(2, share=0.03), 0.0142),
    ],
)
def test_message_sizes(codec, most):
    assert codec.message_bytes(BLOCK) <= most * 4 * BLOCK


@settings(deadline=None, max_examples=40)
@given(numel=st.integers(1, 3000), index=st.integers(0, len(CODECS) - 1), seed=st.integers(0, 99))
def test_any_length_goes_through(numel, index, seed):
    generator = torch.Generator().manual_seed(seed)
    tensor, reference = torch.randn(2, numel, generator=generator)
    for given_reference in (None, reference):
        out = _through(CODECS[index], tensor, given_reference)
        assert out.isfinite().all()


@pytest.mark.parametrize('bits', range(4, 9))
@pytest.mark.parametrize('numel', [BLOCK, 1000, 8])
def test_a_quantised_number_is_off_by_half_a_step_at_most(bits, numel):
    tensor = torch.randn(numel, generator=torch.Generator().manual_seed(bits)) * 0.05
    tensor[: numel // 3] *= 100  # chunks of different ranges
    error = (_through(Quantize(bits), tensor) - tensor).abs()
    for chunk, of_chunk in zip(tensor.split(512), error.split(512), strict=True):
        step = (chunk.max() - chunk.min()) / (2**bits - 1)
        assert of_chunk.max() <= step / 2 * (1 + 1e-3)
    assert error.max() > 0


def test_stochastic_rounding_is_right_on_average():
    tensor = torch.rand(512, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    rounds = 4000
    mean = sum(_through(Quantize(4, stochastic=True), tensor) for _ in range(rounds)) / rounds
    step = (tensor.max() - tensor.min()) / 15
    nearest = (_through(Quantize(4), tensor) - tensor).abs().mean()
    # the standard deviation of the mean is at most step / 2 / sqrt(rounds); five of them
    assert (mean - tensor).abs().max() < 5 * step / 2 / rounds**0.5
    assert (mean - tensor).abs().mean() < nearest / 10


def test_constant_chunks_and_extremes_stay():
    tensor = torch.cat([torch.full((512,), 0.3), torch.zeros(512), torch.linspace(-1, 1, 512)])
    out = _through(Quantize(4), tensor)
    torch.testing.assert_close(out[:1024], tensor[:1024], rtol=0, atol=0)
    torch.testing.assert_close(out[[1024, -1]], tensor[[1024, -1]])


def test_top_k_sends_the_largest_changes():
    reference = torch.arange(8.0)
    tensor = reference + torch.tensor([0.1, -3, 0, 0.2, 2, 0, -0.3, 0.4])
    out = _through(TopK(0.25), tensor, reference)
    expected = reference + torch.tensor([0, -3.0, 0, 0, 2, 0, 0, 0])
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_top_k_without_a_reference_keeps_the_largest_numbers():
    tensor = torch.tensor([0.1, -3, 0, 0.2, 2, 0, -0.3, 0.4])
    expected = torch.tensor([0, -3.0, 0, 0, 2, 0, 0, 0])
    torch.testing.assert_close(_through(TopK(0.25), tensor), expected, rtol=0, atol=0)


@pytest.mark.parametrize('codec', [TopK(0.3), Changes(2), Changes(2, share=0.3, chunk=64)])
def test_decoding_in_place_of_the_reference(codec):
    reference, tensor = torch.randn(2, 100)
    message = codec.encode(tensor, reference)
    apart = torch.empty(100)
    codec.decode(message, apart, reference)
    codec.decode(message, reference, reference)
    assert torch.equal(apart, reference)


@pytest.mark.parametrize('codec', [Quantize(6), Quantize(8), Changes(2), Changes(5), Changes(3, chunk=24)])
@pytest.mark.parametrize('more', [0, 1, 3000])
def test_a_long_tensor_is_coded_as_its_chunks_are(codec: Quantize | Changes, more: int):
    numel = 2 * piece_of(codec.chunk, torch.device('cpu')) + more
    tensor, reference = torch.randn(2, numel, generator=torch.Generator().manual_seed(0))
    reference = reference if codec.uses_reference else torch.zeros(numel)
    few = 7 * codec.chunk  # no piece ends there
    parts = [_through(codec, *both) for both in zip(tensor.split(few), reference.split(few), strict=True)]
    assert torch.equal(_through(codec, tensor, reference), torch.cat(parts))


@pytest.mark.parametrize(
    'codec',
    [Quantize(4), Quantize(8), Quantize(8, chunk=8), Changes(2), Changes(8), Changes(2, share=0.03), TopK()],
)
def test_coding_takes_no_more_memory_than_announced(codec: Codec):
    numel = 8 * PIECE
    tensor, reference, out = torch.randn(3, numel)
    announced, message = codec.scratch_bytes(numel), codec.encode(tensor, reference)
    assert _peak(lambda: codec.encode(tensor, reference)) <= announced + message.nbytes
    assert _peak(lambda: codec.decode(message, out, reference)) <= announced


def _peak(action: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    events = profiler.profiler.kineto_results.events()
    return max(accumulate(event.nbytes() for event in events if event.name() == '[memory]'))


@pytest.mark.parametrize('bits', range(1, 8))
def test_bits_lie_side_by_side_the_first_number_lowest(bits: int):
    codes = torch.randint(
        2**bits, (2 * PIECE + 24,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    packed = pack_bits(codes, bits)
    for start in (0, PIECE, 2 * PIECE, codes.numel() - 8):
        number = int.from_bytes(bytes(packed[start * bits // 8 :][:bits].tolist()), 'little')
        assert [number >> bits * i & 2**bits - 1 for i in range(8)] == codes[start : start + 8].tolist()
    assert packed.numel() == codes.numel() // 8 * bits and torch.equal(unpack_bits(packed, bits), codes)
    # as it is in a message: at an odd place
    assert torch.equal(pack_bits(torch.cat([codes[:3], codes])[3:], bits), packed)
    assert torch.equal(unpack_bits(torch.cat([packed[:3], packed])[3:], bits), codes)


# mean square errors of the best uniform quantisers of normally distributed numbers (Max 1960, Table II)
@pytest.mark.parametrize(
    ('bits', 'error'), [(2, 0.1188), (3, 0.03744), (4, 0.01154), (5, 0.003495), (6, 0.00104), (7, 3.04e-4)]
)
def test_changes_are_quantised_as_well_as_a_uniform_quantiser_can(bits, error):
    generator = torch.Generator().manual_seed(0)
    reference, change = torch.randn(2, 200_000, generator=generator)
    change *= torch.logspace(-6, 2, 200_000)  # every chunk has its own scale
    change[512:1024] = 0
    tensor = reference.double() + change
    out = torch.empty_like(tensor)
    codec = Changes(bits)
    codec.decode(codec.encode(tensor, reference.double()), out, reference.double())
    relative = ((out - tensor) / torch.logspace(-6, 2, 200_000)).square()
    assert relative[1024:].mean() == pytest.approx(error, rel=0.05)
    torch.testing.assert_close(out[512:1024], tensor[512:1024], rtol=0, atol=1e-12)


def test_the_largest_changes_arrive_within_half_a_level_and_the_others_not_at_all():
    generator = torch.Generator().manual_seed(0)
    reference, change = torch.randn(2, 3 * 4096 + 700, generator=generator)
    codec = Changes(4, share=0.1)
    sent = _through(codec, reference + change, reference) - reference
    for was, became in zip(change.split(4096), sent.split(4096), strict=True):
        kept = was.abs() >= was.abs().topk(min(410, was.numel())).values[-1]
        assert became[~kept].abs().max().item() < 1e-6 if not kept.all() else True
        step = (was.abs().max() - was[kept].abs().min()) / 8
        assert (became - was)[kept].abs().max() <= step / 2 + 1e-6
        assert torch.equal(became[kept].sign(), was[kept].sign())


def test_new_holders_get_blocks_at_a_finer_rate():
    finer = Changes(2, new_holders=dict(bits=6, chunk=64)).of_new_holders()
    assert isinstance(finer, Quantize) and (finer.bits, finer.chunk) == (6, 64)
    assert Changes(2).of_new_holders().bits == 8
    assert Changes(2, new_holders='whole').of_new_holders() is None is TopK().of_new_holders()
    assert isinstance(TopK(new_holders='largest').of_new_holders(), TopK)


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='zip'), "one of .*'quantize'.*got {'type': 'zip'}"),
        (dict(bits=4), 'codec must be dict'),
        (dict(type='quantize', bits=3), 'codec.bits must be an integer from 4 to 8, got 3'),
        (dict(type='quantize', bits=8, chunk=100), 'codec.chunk must be a multiple of 8, got 100'),
        (dict(type='changes', bits=1), 'codec.bits must be an integer from 2 to 8, got 1'),
        (dict(type='changes', chunk=100), 'codec.chunk must be None or a multiple of 8 up to 65536, got 100'),
        (dict(type='changes', new_holders=dict(bits=2)), r"codec.new_holders={'bits': 2}: codec.bits must be"),
        (dict(type='changes', new_holders=dict(bit=8)), r"codec.new_holders={'bit': 8}: .*unexpected"),
        (dict(type='topk', share=0), 'codec.share must be above 0'),
        (dict(type='topk', new_holders='none'), "codec.new_holders must be 'whole' or 'largest', got 'none'"),
    ],
)
def test_wrong_configs(cfg, message):
    with pytest.raises(ValueError, match=message):
        build_codec(cfg)


def test_no_config_is_no_codec():
    assert build_codec(None) is None


def test_a_reference_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r'reference of shape \(99,\) for \(100,\)'):
        Changes(2).encode(torch.randn(100), torch.randn(99))
