"""FlatParameters: nobody notices, one storage, which can be given up and taken back."""

import io
from copy import deepcopy

import pytest
import torch
from torch import nn

from resist_mm.models.flat_parameters import ALIGNED_NUMEL, FlatParameters, flatten_by_dtype


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 1))


def is_view_of(tensor, flat):
    return tensor.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()


def test_parameters_stay_the_same_objects_with_their_values():
    net = small_net()
    objects, values = list(net.parameters()), deepcopy(net.state_dict())
    images = torch.rand(2, 3, 9, 9)
    expected = net.eval()(images)

    FlatParameters(net.parameters())

    assert all(p is q for p, q in zip(net.parameters(), objects, strict=True))
    assert all(isinstance(p, nn.Parameter) and p.is_leaf and p.requires_grad for p in net.parameters())
    assert values.keys() == net.state_dict().keys()
    assert all(torch.equal(values[name], value) for name, value in net.state_dict().items())
    assert torch.equal(net(images), expected)


def test_parameters_are_views_of_one_tensor_that_hold_each_number_once():
    net = small_net()
    flat = FlatParameters(net.parameters())
    numel = sum(p.numel() for p in net.parameters())

    assert flat.flat.shape == (numel,)
    assert flat.flat.is_contiguous()
    assert (flat.numel, flat.nbytes) == (numel, 4 * numel)
    assert flat.flat.untyped_storage().nbytes() == 4 * numel
    assert all(is_view_of(p, flat.flat) for p in net.parameters())
    flat.flat.copy_(torch.arange(numel))
    found = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    assert torch.equal(found.sort().values, torch.arange(numel, dtype=torch.float32))


def test_writing_to_parameters_writes_to_the_flat_tensor_and_back():
    net = small_net()
    flat = FlatParameters(net.parameters())
    flat.flat.fill_(2)
    assert all((p == 2).all() for p in net.parameters())
    net.load_state_dict({name: torch.full_like(value, 3) for name, value in net.state_dict().items()})
    assert (flat.flat == 3).all()


def test_aligned_parameters_come_first_in_the_model_s_order():
    sizes = [3, ALIGNED_NUMEL, 5, 2 * ALIGNED_NUMEL]
    params = [nn.Parameter(torch.full((size,), float(size))) for size in sizes]
    flat = FlatParameters(params)
    expected = torch.cat([torch.full((size,), float(size)) for size in (ALIGNED_NUMEL, 2 * ALIGNED_NUMEL, 3, 5)])
    assert torch.equal(flat.flat, expected)


@pytest.mark.parametrize('drop', [False, True])
def test_strides_are_kept(drop):
    net = small_net().to(memory_format=torch.channels_last)
    net.register_parameter('transposed', nn.Parameter(torch.rand(4, 5).t()))
    strides = [p.stride() for p in net.parameters()]
    values = [p.detach().clone() for p in net.parameters()]
    assert net[0].weight.stride() == (27, 1, 9, 3)

    flat = FlatParameters(net.parameters())
    if drop:
        kept = flat.flat.clone()
        flat.release()
        flat.allocate().copy_(kept)

    assert [p.stride() for p in net.parameters()] == strides
    assert all(torch.equal(p, value) for p, value in zip(net.parameters(), values, strict=True))
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_parameter_with_overlapping_memory_becomes_dense():
    p = nn.Parameter(torch.tensor([[1.0], [2.0]]).expand(2, 3))
    flat = FlatParameters([p])
    assert flat.flat.tolist() == [1, 1, 1, 2, 2, 2]
    assert p.tolist() == [[1, 1, 1], [2, 2, 2]]


def test_release_gives_up_storage_and_gradients():
    net = small_net().to(torch.bfloat16)
    objects = list(net.parameters())
    flat = FlatParameters(net.parameters())
    net(torch.rand(2, 3, 9, 9, dtype=torch.bfloat16)).sum().backward()
    numel, nbytes = flat.numel, flat.nbytes
    assert not flat.released

    flat.release()

    assert flat.released
    for p, same in zip(net.parameters(), objects, strict=True):
        assert p is same
        assert p.shape == (0,)
        assert p.dtype == torch.bfloat16
        assert p.untyped_storage().nbytes() == 0
        assert p.grad is None
        assert p.requires_grad
    assert (flat.numel, flat.nbytes) == (numel, nbytes)
    assert [size.numel() for _, size, _ in flat.layouts()] == [128, 216, 8, 8, 8, 16]
    with pytest.raises(RuntimeError, match='their storage is released'):
        _ = flat.flat


def test_allocate_gives_the_same_parameters_their_storage_back():
    net = small_net()
    shapes, objects = [p.shape for p in net.parameters()], list(net.parameters())
    flat = FlatParameters(net.parameters())
    kept = flat.flat.clone()
    images = torch.rand(2, 3, 9, 9)
    expected = net(images)

    flat.release()
    storage = flat.allocate()
    assert not flat.released
    assert storage is flat.flat
    storage.copy_(kept)

    assert [p.shape for p in net.parameters()] == shapes
    assert all(p is q and is_view_of(p, storage) for p, q in zip(net.parameters(), objects, strict=True))
    assert torch.equal(net(images), expected)
    net(images).sum().backward()
    assert all(p.grad.shape == p.shape for p in net.parameters())
    with pytest.raises(RuntimeError, match='still have their storage'):
        flat.allocate()


@pytest.mark.parametrize('optimizer_class', [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_keeps_working_over_release_and_allocate(optimizer_class):
    """Dropping and regaining all parameters, their state forgotten, is a fresh optimizer."""

    def step(net, optimizer):
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()

    net, plain = small_net(), small_net()
    images = torch.rand(2, 3, 9, 9)
    options = dict(lr=0.1, momentum=0.9) if optimizer_class is torch.optim.SGD else dict(lr=0.1)
    flat = FlatParameters(net.parameters())
    optimizer, others = (optimizer_class(n.parameters(), **options) for n in (net, plain))
    step(net, optimizer)
    step(plain, others)

    kept = flat.flat.clone()
    flat.release()
    optimizer.state.clear()
    optimizer.step()  # nothing has a gradient, nothing happens
    assert not optimizer.state
    flat.allocate().copy_(kept)
    others = optimizer_class(plain.parameters(), **options)

    for _ in range(2):
        step(net, optimizer)
        step(plain, others)
    assert not torch.equal(flat.flat, kept)
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)
        assert is_view_of(p, flat.flat)


def test_what_replaced_the_data_of_a_parameter_is_adopted():
    net = small_net()
    flat = FlatParameters(net.parameters())
    net[0].weight.data = torch.full((8, 3, 3, 3), 7.0)

    assert (flat.flat == 7).sum() == 216
    assert all(is_view_of(p, flat.flat) for p in net.parameters())
    flat.flat.fill_(5)
    assert (net[0].weight == 5).all()


def test_a_cast_of_the_model_is_adopted():
    net = small_net()
    flat = FlatParameters(net.parameters())
    values = [p.detach().clone() for p in net.parameters()]
    nbytes = flat.nbytes
    net.double()

    assert flat.nbytes == 2 * nbytes
    assert flat.flat.dtype == torch.float64
    assert all(is_view_of(p, flat.flat) for p in net.parameters())
    assert all(torch.equal(p, v.double()) for p, v in zip(net.parameters(), values, strict=True))
    assert flat.flat is flat.flat  # adopted once


def test_a_cast_of_dropped_parameters_is_adopted():
    net = small_net()
    flat = FlatParameters(net.parameters())
    flat.release()
    net.half()
    assert flat.allocate().dtype == torch.float16
    assert all(p.dtype == torch.float16 and is_view_of(p, flat.flat) for p in net.parameters())


def test_a_cast_of_some_parameters_only_is_an_error_and_casts_no_others():
    net = small_net()
    flat = FlatParameters(net.parameters())
    net[0].half()
    with pytest.raises(ValueError, match='need one dtype and one device'):
        _ = flat.flat
    assert net[3].weight.dtype == torch.float32


def test_parameters_of_several_dtypes_or_none_are_an_error():
    mixed = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))]
    with pytest.raises(ValueError, match=r'need one dtype and one device, got .*torch\.float32.*torch\.float64'):
        FlatParameters(mixed)
    elsewhere = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, device='meta'))]
    with pytest.raises(ValueError, match=r"need one dtype and one device, got .*'cpu'.*'meta'"):
        FlatParameters(elsewhere)
    with pytest.raises(ValueError, match=r'need one dtype and one device, got \[\]'):
        FlatParameters([])


def test_flatten_by_dtype_takes_one_flat_tensor_for_each():
    dtypes = {1: torch.float32, 2: torch.bfloat16, 3: torch.float32}
    params = [nn.Parameter(torch.full((n,), float(n), dtype=dtype)) for n, dtype in dtypes.items()]
    flats = flatten_by_dtype(params)
    assert [(f.flat.dtype, f.flat.tolist()) for f in flats] == [
        (torch.float32, [1, 3, 3, 3]),
        (torch.bfloat16, [2, 2]),
    ]
    assert flatten_by_dtype([]) == []


def copied(net_and_flat):
    return deepcopy(net_and_flat)


def saved_and_loaded(net_and_flat):
    file = io.BytesIO()
    torch.save(net_and_flat, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize('duplicate', [copied, saved_and_loaded])
@pytest.mark.parametrize('drop', [False, True])
def test_a_copy_has_its_own_flat_tensor(duplicate, drop):
    net = small_net()
    flat = FlatParameters(net.parameters())
    kept = flat.flat.clone()
    if drop:
        flat.release()
    net_copy, flat_copy = duplicate((net, flat))
    if drop:
        assert flat_copy.released
        flat.allocate().copy_(kept)
        flat_copy.allocate().copy_(kept)

    for p, q in zip(net_copy.parameters(), net.parameters(), strict=True):
        assert p is not q
        assert torch.equal(p, q)
    assert torch.equal(flat_copy.flat, flat.flat)
    assert all(is_view_of(p, flat_copy.flat) for p in net_copy.parameters())
    flat_copy.flat.fill_(9)
    assert all((p == 9).all() for p in net_copy.parameters())
    assert torch.equal(flat.flat, kept)
