from types import SimpleNamespace

import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.serving import devices
from neural_condense_core.serving.devices import Placement, count_cores, place


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("auto", None, 1, 0, 2), Placement("cpu", ("cpu",), 2)),
        (("auto", 1, 1, 0, 2), Placement("cpu", ("cpu",), 2)),
        (("auto", 2, 2, 0, 8), Placement("cpu", ("cpu",) * 4, 2)),
        (("cpu", None, 3, 4, 2), Placement("cpu", ("cpu",) * 3, 1)),
        (("auto", None, 1, 2, 8), Placement("cuda", ("cuda:0", "cuda:1"), 4)),
        (("auto", 1, 2, 2, 8), Placement("cuda", ("cuda:0", "cuda:0"), 4)),
        (("cuda", 2, 1, 2, 1), Placement("cuda", ("cuda:0", "cuda:1"), 1)),
    ],
)
def test_place(asked, expected):
    accelerator, wanted, workers, n_gpus, n_cores = asked
    assert place(accelerator, wanted, workers, n_gpus=n_gpus, n_cores=n_cores) == expected


@pytest.mark.parametrize(("accelerator", "wanted", "n_gpus"), [("cuda", None, 0), ("auto", 3, 2)])
def test_more_gpus_than_there_are_is_an_error(accelerator, wanted, n_gpus):
    with pytest.raises(ConfigError, match="--devices"):
        place(accelerator, wanted, 1, n_gpus=n_gpus, n_cores=2)


def test_omp_num_threads_bounds_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    all_cores = count_cores()
    assert all_cores >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert count_cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert count_cores() == all_cores
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert count_cores() == all_cores


def test_gpus_count_only_with_a_torch_that_can_use_them(monkeypatch):
    monkeypatch.setattr(devices, "_driver_devices", lambda: 3)
    monkeypatch.setattr(devices, "_torch_has_cuda", lambda: False)
    assert devices.count_gpus() == 0
    monkeypatch.setattr(devices, "_torch_has_cuda", lambda: True)
    assert devices.count_gpus() == 3


def test_no_driver_means_no_gpu(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(devices.ctypes, "CDLL", missing)
    assert devices._driver_devices() == 0


def test_torch_without_cuda_is_seen_without_importing_it(monkeypatch, tmp_path):
    package = tmp_path / "torch"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
    spec = SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setattr(devices, "find_spec", lambda name: spec)
    monkeypatch.setattr(devices, "version", lambda name: "2.13.0")
    assert not devices._torch_has_cuda()
    (package / "lib" / "libtorch_cuda.so").touch()
    assert devices._torch_has_cuda()
    monkeypatch.setattr(devices, "version", lambda name: "2.13.0+cpu")
    assert not devices._torch_has_cuda()
