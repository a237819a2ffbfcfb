"""A CUDA device that computes on the CPU: device rules, autocast and host-device traffic as on a GPU, no GPU.

Tensors say `cuda:0` to Python, to autograd and to autocast; underneath, each op runs on a CPU tensor. An op over
tensors of both devices raises, as on a GPU; what would make a GPU's host wait is counted, with the line that asked for
it; a copy to the host that nobody has waited for holds NaN. With `shapes_only` nothing is computed and every byte is
counted. Import it before torch: it builds and loads a small library that answers for the CUDA runtime. Written for the
torch of constraints.txt; what it knows of CUDA is said here by hand, from PyTorch's sources.
"""

from __future__ import annotations

import collections
import ctypes
import hashlib
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from types import SimpleNamespace

SOURCE = Path(__file__).with_name("no_cuda.cpp")


def _load() -> None:
    """Build the library, once a version of torch, and load it before torch and for all to see."""
    assert "torch" not in sys.modules, "import this before torch"
    torch_dir = Path(importlib.util.find_spec("torch").origin).parent
    stamp = hashlib.sha256(SOURCE.read_bytes() + (torch_dir / "version.py").read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"no-cuda-{os.getuid()}-{stamp}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}")
        where = [f"-I{torch_dir / 'include'}", f"-L{torch_dir / 'lib'}", f"-Wl,-rpath,{torch_dir / 'lib'}"]
        how = ["-O0", "-std=c++20", "-shared", "-fPIC"]
        subprocess.run(["c++", *how, str(SOURCE), "-o", str(part), *where, "-lc10", "-ltorch_cpu"], check=True)
        part.rename(library)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


_load()
import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes  # noqa: E402

aten = torch.ops.aten
COPIES = {aten._to_copy, aten.copy_}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # which takes indices on the host
NOT_EVEN_SCALARS = {aten.index_select, aten.gather, aten.mm, aten.addmm, aten.cat, aten.stack}
WAITS = {
    aten._local_scalar_dense: 1,
    aten.nonzero: 1,
    aten._unique2: 1,
    aten.bincount: 1,
    aten.equal: 1,
    aten.is_nonzero: 1,
    aten.masked_select: 1,
    aten.segment_reduce: 2,  # it checks lengths by two .item() unless unsafe (SegmentReduce.cpp)
    aten.repeat_interleave: 1,
}
"""Ops whose result's size or value the host needs at once."""
NOT_DETERMINISTIC = {
    aten.put,
    aten.put_,
    aten.histc,
    aten.kthvalue,
    aten.nll_loss2d_forward,
    aten.max_unpool2d,
    aten._ctc_loss_backward,
    aten.reflection_pad1d_backward,
    aten.upsample_linear1d_backward,
}
"""Of the ops that torch.use_deterministic_algorithms refuses on CUDA, those that a text's model might use."""
LAUNCH_NOTHING = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.detach}


def _leaves(x):
    """What ops are given and give, nested in lists and tuples: torch's own way with any type takes most of the time."""
    if isinstance(x, list | tuple):
        return [leaf for item in x for leaf in _leaves(item)]
    return [x]


def _mapped(function, x):
    return type(x)([_mapped(function, item) for item in x]) if isinstance(x, list | tuple) else function(x)


class CudaTensor(torch.Tensor):
    """Says cuda:0; `inner` holds the values on the CPU, or only their shape."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device("cuda", 0),
            requires_grad=False,
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self, **_):
        return f"CudaTensor({self.inner!r})"

    def __getitem__(self, index):  # torch would build the tensor of a list's places out of our sight
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    def tolist(self):
        return self.cpu().tolist()

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def data_ptr(self):
        return self.inner.data_ptr()

    def __format__(self, spec):
        return self.item().__format__(spec) if self.ndim == 0 else object.__format__(self, spec)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} on emulated CUDA outside of `with EmulatedCuda()`")


class EmulatedCuda(TorchDispatchMode):
    """While in use, device="cuda" works. What a GPU's host would do is counted by line of the program.

    waits: what the host waits for; blocking: uploads that it waits for; uploads: the others; calls: ops that launch
    something; ops: which; doubles: float64 on the device. With `shapes_only` alone: `trace` has for each such op its
    name, the bytes it reads and writes, and the multiply-adds of a matrix product, counted twice; `held` and `peak`
    are bytes on the device.
    """

    def __init__(self, shapes_only: bool = False):
        super().__init__()
        self.shapes_only = shapes_only
        self.waits, self.blocking, self.uploads, self.doubles = (collections.Counter() for _ in range(4))
        self.ops, self.calls = collections.Counter(), 0
        self.trace: list[tuple[str, int, int]] = []
        self.held = self.peak = 0
        self.flash_backward = collections.Counter()  # by whether it was deterministic
        self.on_the_way: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, packet = dict(kwargs or {}), func._overloadpacket
        tensors = [leaf for leaf in _leaves([args, *kwargs.values()]) if isinstance(leaf, torch.Tensor)]
        wrapped = [tensor for tensor in tensors if isinstance(tensor, CudaTensor)]
        to = kwargs.get("device")
        to_cuda = to is not None and torch.device(to).type == "cuda"
        pin = kwargs.pop("pin_memory", None)
        if not wrapped and not to_cuda:
            out = func(*args, **kwargs)
            if pin:
                out.is_pinned_here = True
            return out
        self._check(func, packet, args, wrapped, [tensor for tensor in tensors if not isinstance(tensor, CudaTensor)])
        if packet is aten.copy_:
            return self._copy(args[0], args[1], kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
        if packet is aten._to_copy and to is not None and to_cuda != bool(wrapped):
            dtype = kwargs.get("dtype") or args[0].dtype
            if to_cuda:
                if args[0].dtype != dtype:
                    args = (args[0].to(dtype),)
                return self._copy(self._new(args[0]), args[0], kwargs.get("non_blocking", False))
            host = torch.empty(args[0].shape, dtype=args[0].dtype)
            host.is_pinned_here = True  # a copy to the host that does not block makes its own pinned place
            return self._copy(host, args[0], kwargs.get("non_blocking", False)).to(dtype)
        self._count(func, packet, args, kwargs)
        if "device" in kwargs:
            kwargs["device"] = torch.device("meta" if self.shapes_only else "cpu")
        by_inner = {id(tensor.inner): tensor for tensor in wrapped}
        args, values = _mapped(lambda x: x.inner if isinstance(x, CudaTensor) else x, (args, tuple(kwargs.values())))
        kwargs = dict(zip(kwargs, values, strict=True))
        if self.shapes_only:
            args = _mapped(
                lambda x: x.to("meta") if isinstance(x, torch.Tensor) and x.device.type == "cpu" else x, args
            )
        with _disable_current_modes():
            out = self._run(func, packet, args, kwargs)
        out = _mapped(lambda x: by_inner.get(id(x)) if id(x) in by_inner else self._wrap(x), out)
        if self.shapes_only and self._launches(func):
            self.trace.append((self._name(packet), *_cost(func, wrapped, out)))
        return out

    def _run(self, func, packet, args, kwargs):
        if packet is aten._flash_attention_forward:
            return _flash(*args, **kwargs) if not self.shapes_only else _flash_shapes(*args)
        if packet is aten._flash_attention_backward:
            self.flash_backward[torch.are_deterministic_algorithms_enabled()] += 1
            if self.shapes_only:
                return tuple(torch.empty_like(x) for x in args[1:4])
            return _flash_backward(*args, **kwargs)
        if self.shapes_only and packet is aten._local_scalar_dense:
            return 1.0
        if self.shapes_only and packet is aten.segment_reduce:
            return torch.empty(len(kwargs["lengths"]), *args[0].shape[1:], device="meta")
        if self.shapes_only and packet is aten._segment_reduce_backward:
            return torch.empty_like(args[2])
        return func(*args, **kwargs)

    def _wrap(self, x):
        if not isinstance(x, torch.Tensor):
            return x
        if x.dtype == torch.float64:
            self.doubles[_line()] += 1
        if self.shapes_only:
            storage = x.untyped_storage()
            if not getattr(storage, "_counted", False):
                storage._counted = True
                self.held += storage.nbytes()
                self.peak = max(self.peak, self.held)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return CudaTensor(x)

    def _freed(self, size):
        self.held -= size

    def _new(self, like):
        with _disable_current_modes():
            return self._wrap(torch.empty_like(like, device="meta" if self.shapes_only else "cpu"))

    def _check(self, func, packet, args, wrapped, on_host):
        """Raise what a GPU would for tensors of both devices, and in strict mode for an op that is never the same."""
        if torch.are_deterministic_algorithms_enabled() and _differs_each_time(packet, args):
            raise RuntimeError(f"{packet} does not have a deterministic implementation, but you set …")
        if packet in COPIES or not wrapped:
            return
        if packet in INDEXING:
            if not isinstance(args[0], CudaTensor):
                raise RuntimeError(
                    f"{func}: indices should be either on cpu or on the same device as the indexed tensor"
                )
            if packet is not aten.index and not isinstance(args[2], CudaTensor) and args[2].ndim > 0:
                raise RuntimeError(f"{func}: values on the cpu, self on cuda:0")
            indices = [index for index in args[1] if index is not None]
            if any(not isinstance(index, CudaTensor) for index in indices):
                self.blocking[f"index on the host {_line()}"] += 1
            if any(index.dtype == torch.bool for index in indices):
                self.waits[f"index by a mask {_line()}"] += 1
        elif any(tensor.ndim > 0 or packet in NOT_EVEN_SCALARS for tensor in on_host):
            raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found cuda:0 and cpu")

    def _copy(self, target, source, non_blocking):
        """What copy_ does; returns the target."""
        there, here = isinstance(target, CudaTensor), isinstance(source, CudaTensor)
        self.calls += 1
        self.ops["copy_"] += 1
        values = source.inner if here else source
        if there and not here:
            (self.uploads if non_blocking and _is_pinned(source) else self.blocking)[
                f"copy to the device {_line()}"
            ] += 1
        if here and not there and self.shapes_only:
            values = torch.ones(source.shape, dtype=source.dtype)
        if here and not there and not (non_blocking and _is_pinned(target)):
            self.waits[f"copy to the host {_line()}"] += 1
            self.arrive()
        with _disable_current_modes():
            if here and not there and non_blocking and _is_pinned(target):
                self.on_the_way.append((target, values.clone()))
                target.fill_(float("nan") if target.is_floating_point() else -1)
            elif not (there and self.shapes_only):
                (target.inner if there else target).copy_(values)
        return target

    def arrive(self, number=None):
        """The first `number` copies to the host, or all, have come."""
        with _disable_current_modes():
            for target, values in self.on_the_way[:number]:
                target.copy_(values)
        del self.on_the_way[:number]

    @staticmethod
    def _launches(func):
        is_view = any(of.alias_info is not None and not of.alias_info.is_write for of in func._schema.returns)
        return not is_view and func._overloadpacket not in LAUNCH_NOTHING

    @staticmethod
    def _name(packet):
        return str(packet).removeprefix("aten.")

    def _count(self, func, packet, args, kwargs):
        if self._launches(func):
            self.calls += 1
            self.ops[self._name(packet)] += 1
        if packet in WAITS and not kwargs.get("unsafe") and kwargs.get("output_size") is None:
            self.waits[f"{self._name(packet)} {_line()}"] += WAITS[packet]


def _differs_each_time(packet, args):
    """Whether CUDA has only a kernel that adds in any order (by the documentation of use_deterministic_algorithms)."""
    if packet is aten.cumsum:
        return args[0].is_floating_point()
    if packet is aten.bincount:
        return len(args) > 1 and args[1] is not None
    return packet in NOT_DETERMINISTIC or (packet is aten.median and len(args) > 1)


def _cost(func, wrapped, out):
    """Bytes and product operations of an op: what it is given and what it gives."""
    made = [x for x in _leaves(out) if isinstance(x, CudaTensor)]
    each = {id(x): x.numel() * x.element_size() for x in [*wrapped, *made]}
    size = sum(each.values()) * (7 / 4 if "adam" in str(func) else 1)  # reads four of a weight's, writes three
    products = {aten.mm: 0, aten.addmm: 1, aten.bmm: 0}
    place = products.get(func._overloadpacket)
    return int(size), 0 if place is None else 2 * made[0].numel() * wrapped[place].shape[-1]


def _line() -> str:
    """The innermost line of the program that asked."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if "biencoder_ablate" in name:
            return f"{name.split('biencoder_ablate/')[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


# --- FlashAttention ---


def _pieces(cu_q, cu_k):
    of_query, of_key = ([slice(*ends) for ends in itertools.pairwise(cu.tolist())] for cu in (cu_q, cu_k))
    return list(zip(of_query, of_key, strict=True))


def _flash(query, key, value, cu_q, cu_k, max_q, max_k, dropout_p, is_causal, debug, scale=None):
    """Queries (N, A, D). Which weights fall is a GPU's secret; here a seed drawn from torch's generator says it."""
    # What FlashAttention-2 asks of its inputs (flash_api.cpp, mha_varlen_fwd).
    assert torch.cuda.get_device_capability() >= (8, 0), "FlashAttention only supports Ampere GPUs or newer"
    assert query.dtype in (torch.bfloat16, torch.float16), "FlashAttention only support fp16 and bf16 data type"
    assert query.dtype == key.dtype == value.dtype
    assert cu_q.dtype == cu_k.dtype == torch.int32, "cu_seqlens must have dtype int32"
    assert cu_q.is_contiguous() and cu_k.is_contiguous()
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1, (
        "Input tensor must have contiguous last dimension"
    )
    assert query.shape[-1] % 8 == 0 and query.shape[-1] <= 256, "head_size must be a multiple of 8, at most 256"
    assert cu_q[-1] == len(query) and cu_k[-1] == len(key) and cu_q.shape == cu_k.shape
    assert int(cu_q.diff().max()) <= max_q and int(cu_k.diff().max()) <= max_k
    assert not is_causal and not debug
    seed = torch.randint(2**62, (1,)) if dropout_p > 0 else torch.zeros(1, dtype=torch.int64)
    attended = [
        ((weights * kept) @ v).transpose(0, 1)
        for weights, kept, v in _weights(query, key, value, cu_q, cu_k, dropout_p, scale, seed)
    ]
    lse = torch.zeros(query.shape[1], len(query))
    return torch.cat(attended).to(query.dtype), lse, seed, torch.zeros(0), query[:0]


def _weights(query, key, value, cu_q, cu_k, dropout_p, scale, seed):
    random = torch.Generator().manual_seed(int(seed))
    for of_query, of_key in _pieces(cu_q, cu_k):
        q, k, v = (x.float().transpose(0, 1) for x in (query[of_query], key[of_key], value[of_key]))
        weights = torch.softmax(q @ k.mT * scale, -1)
        kept = torch.empty_like(weights).bernoulli_(1 - dropout_p, generator=random) / (1 - dropout_p)
        yield weights, kept, v


def _flash_backward(
    grad, query, key, value, out, lse, cu_q, cu_k, max_q, max_k, dropout_p, is_causal, seed, unused, scale=None
):
    found = ([], [], [])
    each = _weights(query, key, value, cu_q, cu_k, dropout_p, scale, seed)
    for (of_query, of_key), (weights, kept, v) in zip(_pieces(cu_q, cu_k), each, strict=True):
        g, q, k = (x.float().transpose(0, 1) for x in (grad[of_query], query[of_query], key[of_key]))
        of_weights = g @ v.mT * kept
        of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * scale
        for place, gradient in zip(found, (of_scores @ k, of_scores.mT @ q, (weights * kept).mT @ g), strict=True):
            place.append(gradient.transpose(0, 1))
    return tuple(torch.cat(pieces).to(query.dtype) for pieces in found)


def _flash_shapes(query, *_):
    lse, seed = torch.empty(query.shape[1], len(query), device="meta"), torch.empty(2, device="meta")
    return torch.empty_like(query, memory_format=torch.contiguous_format), lse, seed, seed[:0], query[:0]


class _Event:
    """Waiting for one is no wait for all: not counted. What was on the way when it was recorded has come then."""

    def record(self):
        self.modes = [(mode, len(mode.on_the_way)) for mode in _modes()]

    def synchronize(self):
        for mode, number in self.modes:
            mode.arrive(number)


def _modes():
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    return [mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, EmulatedCuda)]


def _is_pinned(tensor):
    return getattr(tensor, "is_pinned_here", False)


def _pin(tensor, *_):
    copy = tensor.clone()
    copy.is_pinned_here = True
    return copy


def emulate(name: str = "NVIDIA H100 80GB HBM3", capability: tuple[int, int] = (9, 0)) -> None:
    """Make torch.cuda say that there is such a device. For a process of its own: nothing is put back."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a module moved gets parameters of our type
    torch.cuda._lazy_init = lambda: None
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.get_device_capability = lambda device=None: capability
    torch.cuda.get_device_properties = lambda device=None: SimpleNamespace(total_memory=80 * 2**30)
    torch.cuda.get_device_name = lambda device=None: name
    torch.cuda.is_bf16_supported = lambda including_emulation=True: including_emulation or capability >= (8, 0)
    torch.cuda.get_rng_state = lambda device="cuda": torch.get_rng_state()
    torch.cuda.set_rng_state = lambda state, device="cuda": torch.set_rng_state(state)
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.Event = _Event
    torch.Tensor.pin_memory = _pin
