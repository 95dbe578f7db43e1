"""The emulation of CUDA tried on kernels of its own, then what it alone can say of the package's kernels."""

from __future__ import annotations

import ctypes
import functools
import itertools
import operator
import os
import re
import subprocess
import sys
from pathlib import Path

import kit
import pytest
import torch
from cuda_emulation import build
from cuda_emulation.build import Unavailable, load_self_test, variant_of_process
from kit import Backend, Case
from torch import Tensor

from indeed_ext import mine_pairs, pack_labels, reference

TESTS = Path(__file__).resolve().parent
SCHEDULES = ("forward", "reverse", "shuffle:1", "shuffle:2")
in_the_main_process = pytest.mark.skipif(variant_of_process() != "plain", reason="runs in a process of a variant")


def launch(
    name: str,
    values: Tensor | None = None,
    *,
    variant: str | None = None,
    grid: tuple[int, int] = (1, 1),
    block: int = 32,
    n: int = 0,
    shared: int = 0,
    results: int = 2048,
) -> Tensor:
    """What the kernel ``name`` of self_test.cu writes, from ``values`` (by default 0, 1, ...)."""
    try:
        library = load_self_test(variant or variant_of_process())
    except Unavailable as reason:
        pytest.skip(str(reason))
    values = torch.arange(2048, dtype=torch.int32) if values is None else values.to(torch.int32).contiguous()
    out = torch.zeros(results, dtype=torch.int32)
    message = ctypes.create_string_buffer(4096)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (out, values)]
    sizes = [ctypes.c_uint(size) for size in (*grid, block)]
    library.cuda_emulation_self_test(
        name.encode(), *sizes, ctypes.c_size_t(shared), *pointers, n, message, ctypes.c_size_t(4096)
    )
    if message.value:
        raise RuntimeError(message.value.decode())
    return out


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("INDEED_EMULATION_SCHEDULE", request.param)
    return request.param


# ------------------------------------------------------------------- right kernels


@pytest.mark.usefixtures("schedule")
@pytest.mark.parametrize("variant", ["plain", "race"])
class TestRightKernels:
    """Every order gives the results of a GPU, and nothing right is taken for a race."""

    def test_indices(self, variant: str) -> None:
        out = launch("indices", grid=(3, 2), block=40, variant=variant)
        assert out[:240].tolist() == list(range(2000, 2240))
        assert not out[240:].any()

    def test_barriers(self, variant: str) -> None:
        values = torch.randint(1000, (4, 256))
        assert (
            launch("block_sum", values, grid=(4, 1), block=256, shared=1024, variant=variant)[:4].tolist()
            == values.sum(1).tolist()
        )

    def test_shuffles(self, variant: str) -> None:
        values = torch.randint(-1000, 1000, (64,))
        got = launch("shuffles", values, block=64, variant=variant)[:512].view(64, 8).T
        thread = torch.arange(64)
        lane, warp = thread % 32, thread // 32 * 32
        sources = [
            thread ^ 5,
            torch.where(lane + 3 < 32, thread + 3, thread),
            torch.where(lane >= 3, thread - 3, thread),
            warp + 7,
            torch.where(thread % 8 + 3 < 8, thread + 3, thread),
            thread // 8 * 8 + 1,
            thread ^ 1,
            thread ^ 1,
        ]
        for row, source in zip(got, sources, strict=True):
            assert torch.equal(row.long(), values[source])

    def test_votes(self, variant: str) -> None:
        values = torch.randint(0, 3, (64,))
        values[32:] = 4  # all of a warp agrees
        got = launch("votes", values, block=64, variant=variant)[:384].view(64, 6)
        for thread, (ballot, some, every, count, bits, half) in enumerate(got.tolist()):
            warp = values[thread // 32 * 32 :][:32] != 0
            value = int(values[thread])
            assert ballot & 0xFFFFFFFF == sum(1 << lane for lane in range(32) if warp[lane])
            assert (some, every) == (bool(warp.any()), bool(warp.all()))
            assert count == int((values != 0).sum())
            lowest = (value & -value).bit_length()
            assert bits == value.bit_count() + 100 * lowest + 10000 * (32 - value.bit_length())
            assert half == (0xFFFF if thread % 32 < 16 else 0)

    def test_atomics(self, variant: str) -> None:
        values = torch.randint(-(2**20), 2**20, (512,)).abs() + 1
        out = launch("atomics", values, grid=(4, 1), block=128, variant=variant)
        assert out[:4].tolist() == torch.bincount(values % 4, minlength=4).tolist()
        assert out[4] == 0  # of zeros and positive values
        assert out[5] == values.max()
        assert out[6] == functools.reduce(operator.or_, values.tolist())
        assert out[9] & 0xFFFFFFFF == int(values.sum()) & 0xFFFFFFFF

    def test_syncwarp(self, variant: str) -> None:
        out = launch("through_shared", block=96, variant=variant)
        assert torch.equal(out[:96], torch.arange(96, dtype=torch.int32) ^ 1)

    def test_neighbours_in_a_word(self, variant: str) -> None:
        out = launch("bytes_apart", grid=(3, 1), block=5, variant=variant)
        assert out.view(torch.uint8)[:15].tolist() == [*range(5)] * 3


# ------------------------------------------------------------------- wrong kernels


@pytest.mark.usefixtures("schedule")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("divergent_barrier", {}, r"not all threads meet: .*1 thread \(first 3\) finished"),
        ("two_barriers", {}, r"not all threads meet: 32 threads .* in __syncthreads at .*; 32 threads"),
        ("missing_lane", {}, r"not all threads meet: .*31 threads \(first 0\) in a shuffle at self_test.cu:\d+"),
        ("outside_mask", {}, r"thread \d+ is not in its own mask at self_test.cu:\d+"),
        ("absent_source", {}, r"thread 0 shuffles from lane 16, which takes no part"),
        ("trapped", {}, r"thread 5 traps at self_test.cu:\d+"),
        ("misaligned", {"n": 1}, r"misaligned access to global memory \S+ at self_test.cu:\d+"),
        ("indices", {"block": 1025}, "impossible block size 1025"),
        ("indices", {"block": 0}, "impossible block size 0"),
        ("indices", {"grid": (0, 1)}, "impossible grid"),
        ("indices", {"grid": (1, 65536)}, "impossible grid"),
        ("block_sum", {"shared": 49153}, "more than 48 KiB of shared memory"),
    ],
)
def test_undefined_behaviour_is_an_error(name: str, options: dict, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        launch(name, **({"block": 64} | options))


@in_the_main_process
@pytest.mark.parametrize("name", ["shared_overrun", "dynamic_overrun"])
def test_writes_past_shared_memory_are_caught_without_a_sanitizer(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"past the end of shared memory \S+ \(byte 128 of 128\)"):
        launch(name, n=32, shared=128)


def test_an_unknown_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDEED_EMULATION_SCHEDULE", "sideways")
    with pytest.raises(RuntimeError, match="sideways"):
        launch("indices")


@pytest.mark.usefixtures("schedule")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("block_sum without barriers", {"block": 256, "shared": 1024}, r"shared memory \(dynamic\)"),
        ("through_shared without barriers", {}, "shared memory row"),
        ("plain_read_of_atomic", {}, "shared memory count"),
        ("last_writer", {}, "global memory .* writes at self_test.cu"),
        ("across_blocks", {"grid": (4, 1)}, r"global memory .* of block \d"),
    ],
)
def test_races_are_caught(name: str, options: dict, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"race on {message}"):
        launch(name, variant="race", **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("block_sum without barriers", {"block": 256, "shared": 1024}),
        ("through_shared without barriers", {}),
        ("uninitialised", {}),
        ("last_writer", {"grid": (2, 1)}),
        ("plain_read_of_atomic", {}),
    ],
)
def test_a_mistake_changes_with_the_schedule(name: str, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the comparison of schedules rests on."""
    results = []
    for each in SCHEDULES:
        monkeypatch.setenv("INDEED_EMULATION_SCHEDULE", each)
        results.append(launch(name, variant="plain", **options).tolist())
    assert any(result != results[0] for result in results)


# ---------------------------------------------------------- processes of a variant


def _python(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        cwd=TESTS,  # not the root, whose indeed_ext may never have been built
        capture_output=True,
        text=True,
        check=False,
    )


def _pytest(arguments: list[str], environment: dict[str, str]) -> str:
    """A test run in a process of its own; it must pass, and must have run something."""
    result = _python(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments], environment)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-6000:]
    assert re.search(r"\d{2,} passed", output), output[-2000:]
    return output


def _sanitized() -> dict[str, str]:
    try:
        return build.sanitizer_environment()
    except Unavailable as reason:
        pytest.skip(str(reason))


#: Broken kernel to what AddressSanitizer must say of it.
_OUT_OF_BOUNDS = {
    "shared_overrun": "use-after-poison",
    "dynamic_overrun": "use-after-poison",
    "global_overrun": "heap-buffer-overflow",
    "global_overread": "heap-buffer-overflow",
}
# Importing torch under the sanitizer takes most of the time: one process, whose children die of it.
_LAUNCH_EACH = """
import os, sys, torch, test_cuda_emulation as tests
tests.load_self_test("address")
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        tests.launch(name, torch.arange(32), n=32, shared=128, results=32)
        os._exit(0)
    print(f"end of {name}: {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", file=sys.stderr, flush=True)
"""


@in_the_main_process
def test_accesses_out_of_bounds_are_caught() -> None:
    environment = _sanitized() | {"PYTHONPATH": _with_tests()}
    errors = _python(["-W", "ignore", "-c", _LAUNCH_EACH, *_OUT_OF_BOUNDS], environment).stderr
    for name, error in _OUT_OF_BOUNDS.items():
        report, found, errors = errors.partition(f"end of {name}: ")
        assert found, report
        assert not errors.startswith("0"), f"{name} passed"
        assert f"ERROR: AddressSanitizer: {error}" in report, report[-3000:]
        assert re.search(rf"#0 .* in \S*{name}\S* .*self_test.cu", report), report[-3000:]


def _with_tests() -> str:
    return os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))


@in_the_main_process
def test_right_kernels_pass_under_the_address_sanitizer() -> None:
    selection = "(TestRightKernels and plain) or undefined_behaviour"
    _pytest([str(TESTS / "test_cuda_emulation.py"), "-k", selection], _sanitized())


# ----------------------------------------------------------- the package's kernels


@pytest.fixture
def emulated() -> Backend:
    error = kit.emulation_error()
    if isinstance(error, Unavailable):
        pytest.skip(str(error))
    if error is not None:
        raise error
    return kit.REGISTRY["cuda-emulated"]


def _small_cases() -> list[Case]:
    options = itertools.product(kit.NORMS, kit.PAIRINGS, (torch.float64, torch.float32, torch.bfloat16))
    reductions = itertools.cycle(kit.REDUCTIONS)
    flags = itertools.cycle([True, False, False, True, True])
    return [
        Case(9, 37, 33, norm, pairing, next(reductions), dtype, pos_weight=next(flags), unknown=next(flags))
        for norm, pairing, dtype in options
    ]


@pytest.mark.parametrize("case", _small_cases(), ids=str)
def test_every_schedule_gives_the_same_bits(emulated: Backend, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case.build()
    results = []
    for schedule in SCHEDULES:
        monkeypatch.setenv("INDEED_EMULATION_SCHEDULE", schedule)
        results.append(kit.check_loss(emulated, inputs))
    assert all(kit.same_bits(result, results[0]) for result in results)


@pytest.mark.parametrize(("batch", "classes"), [(150, 40), (270, 40), (40, 5000)])
@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_every_schedule_mines_the_same_pairs(
    emulated: Backend, strategy: str, batch: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = kit.random_labels(generator, batch, classes, density=max(3 / classes, 0.008))
    expected = reference.mine_pairs(labels, strategy=strategy, seed=5)
    assert not torch.equal(expected, torch.arange(batch))
    for schedule in SCHEDULES:
        monkeypatch.setenv("INDEED_EMULATION_SCHEDULE", schedule)
        assert torch.equal(mine_pairs(labels, strategy=strategy, seed=5, backend=emulated.name), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("strategy", kit.STRATEGIES)
@pytest.mark.parametrize("norm", kit.NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=kit.SHORT.get)
def test_launches(emulated: Backend, norm: str, strategy: str, reduction: str, dtype: torch.dtype) -> None:
    """Packing, mining, loss, all gradients and their scaling, products included, whatever the batch and the type."""
    count = build.load_backend().cuda_emulation_launch_count
    count.restype = ctypes.c_int64
    counts = {}
    for batch, classes in [(2, 20), (9, 20), (40, 20), (9, 1), (9, 1000), (3, 4096)]:
        inputs = Case(batch, 24, classes, norm, strategy, reduction, dtype).build()
        before = count()
        kit.run_backend(emulated, inputs)
        counts[batch, classes] = count() - before
    assert set(counts.values()) == {9 if strategy == "anchor" else 10}, counts


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_launches_of_mining(emulated: Backend, strategy: str) -> None:
    """They depend on the sizes, not on the labels: kernels that list neighbours, or labels where classes are many."""
    count = build.load_backend().cuda_emulation_launch_count
    count.restype = ctypes.c_int64
    generator = torch.Generator().manual_seed(0)

    def launches(labels: Tensor) -> int:
        words = pack_labels(labels)
        before = count()
        mine_pairs(words, strategy=strategy, seed=1, num_classes=labels.shape[1], backend=emulated.name)
        return count() - before

    expected = {"anchor": (1, 1, 1), "matching": (2, 3, 3), "balanced": (2, 3, 5)}[strategy]
    for batch, number in zip((256, 300, 520), expected, strict=True):
        for density in (0.0, 0.1, 0.6):
            assert launches(kit.random_labels(generator, batch, 20, density=density)) == number
    assert launches(kit.random_labels(generator, 9, 4096)) == expected[0]
    assert launches(kit.random_labels(generator, 9, 4097)) == expected[0] + 1


#: What runs under the race check and the address sanitizer: every operator and every option that chooses a kernel,
#: without the full product of options and without what only draws large samples.
_COMPACT_FILES = (
    *("cuda_emulation", "cuda_values", "cuda_mining", "pack_labels", "mine_pairs"),
    *("identical_disparate", "six_way_bce"),
)
_LEFT_OUT = (
    *("TestRightKernels", "undefined_behaviour", "races_are_caught", "changes_with_the_schedule"),
    *("test_loss_and_gradients", "test_features_and_gradient", "gradcheck", "70x1000"),
    *("uniform", "are_random", "fewer_alone", "large_batches"),
)


@in_the_main_process
@pytest.mark.parametrize("variant", ["race", "address"])
def test_the_suite_in_a_process_of(emulated: Backend, variant: str) -> None:
    environment = _sanitized() if variant == "address" else {build.VARIABLE: variant}
    files = [str(TESTS / f"test_{name}.py") for name in _COMPACT_FILES]
    _pytest([*files, "--backend", emulated.name, "-k", f"not ({' or '.join(_LEFT_OUT)})"], environment)
