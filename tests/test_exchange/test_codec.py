"""Codecs: sizes, errors, agreement."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resist_mm.builders import build_codec
from resist_mm.exchange.codec import BF16, Codec, Quantize, TopK

BLOCK = 1_180_672  # numbers of a block of the CIFAR network
CODECS = [BF16(), *(Quantize(bits) for bits in range(4, 9)), Quantize(5, stochastic=True), TopK(), TopK(0.5)]


def _through(codec: Codec, tensor: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
    message = codec.encode(tensor, reference)
    assert message.dtype == torch.uint8
    assert message.shape == (codec.message_bytes(tensor.numel()),)
    out = torch.full_like(tensor, torch.nan)
    codec.decode(message, out, reference)
    return out


@pytest.mark.parametrize(
    ('codec', 'most'),
    [(Quantize(8), 0.26), (Quantize(6), 0.20), (Quantize(4), 0.135), (TopK(0.25), 0.29), (BF16(), 0.5)],
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


def test_decoding_in_place_of_the_reference():
    reference, tensor = torch.randn(2, 100)
    message = TopK(0.3).encode(tensor, reference)
    apart = torch.empty(100)
    TopK(0.3).decode(message, apart, reference)
    TopK(0.3).decode(message, reference, reference)
    assert torch.equal(apart, reference)


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='zip'), "one of .*'quantize'.*got {'type': 'zip'}"),
        (dict(bits=4), 'codec must be dict'),
        (dict(type='quantize', bits=3), 'codec.bits must be an integer from 4 to 8, got 3'),
        (dict(type='quantize', bits=8, chunk=100), 'codec.chunk must be a multiple of 8, got 100'),
        (dict(type='topk', share=0), 'codec.share must be above 0'),
        (dict(type='topk', new_holders='none'), "codec.new_holders must be 'whole' or 'largest', got 'none'"),
    ],
)
def test_wrong_configs(cfg, message):
    with pytest.raises(ValueError, match=message):
        build_codec(cfg)


def test_no_config_is_no_codec():
    assert build_codec(None) is None
