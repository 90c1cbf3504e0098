"""What libraries and the kernel really say, and the class that it is told to be of."""

import errno
import os
import subprocess
import sys

import pytest
import torch
from ray.exceptions import (
    ActorUnavailableError,
    ObjectLostError,
    OwnerDiedError,
    RaySystemError,
    RuntimeEnvSetupError,
)
from torch import multiprocessing
from torch.utils.data import DataLoader, Dataset

from orchestration.runs.failures import Failure, FailureClass
from rankmatch.checks import LocalDiskError, MissingFileError
from rankmatch.data.pixels import read_image
from rankmatch.data.workers import DataWorkerError
from rankmatch.trainer import choose_device

FS, NET, GPU, NODE, SHM, GONE = (
    FailureClass.FILE_SYSTEM,
    FailureClass.NETWORK,
    FailureClass.GPU_FAULT,
    FailureClass.NODE_LIMIT,
    FailureClass.SHARED_MEMORY,
    FailureClass.MISSING_FILE,
)
AcceleratorError = type("AcceleratorError", (RuntimeError,), {"__module__": "torch"})
DistBackendError = type("DistBackendError", (RuntimeError,), {"__module__": "torch.distributed"})
DistNetworkError = type("DistNetworkError", (RuntimeError,), {"__module__": "torch.distributed"})
OutOfDiskError = type("OutOfDiskError", (Exception,), {"__module__": "ray.exceptions"})
NVMLError = type("NVMLError_LibRmVersionMismatch", (Exception,), {"__module__": "pynvml"})
LocalRayletDiedError = type("LocalRayletDiedError", (Exception,), {"__module__": "ray.exceptions"})
ASYNCHRONOUS = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
)
NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, "


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((number, FS) for number in (errno.ESTALE, errno.EIO, errno.EREMOTEIO, errno.ENOTCONN, errno.ESHUTDOWN)),
        *((number, FS) for number in (errno.EHOSTDOWN, errno.EROFS, errno.ENOLCK, errno.ENODEV, errno.EKEYEXPIRED)),
        *((number, NET) for number in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED)),
        *((number, NET) for number in (errno.ECONNRESET, errno.EPIPE)),
        *((number, NODE) for number in (errno.EAGAIN, errno.EMFILE, errno.ENFILE)),
        (errno.ENOMEM, FailureClass.HOST_MEMORY),
        (errno.EDQUOT, FailureClass.DISK_FULL),
        (errno.ENOENT, GONE),
        (errno.ENOTDIR, GONE),
        *((number, FS) for number in (errno.EBUSY, errno.ENOTEMPTY, errno.EACCES)),
        (errno.EADDRINUSE, NET),
        (errno.EPERM, FailureClass.CODE),
    ],
)
def test_errno_is_classified_as_an_exception_and_as_other_libraries_print_it(number, kind):
    error = OSError(number, os.strerror(number), "/shared/voc/1.png")
    assert Failure.of(error).kind is kind
    assert Failure.of(RuntimeError(f"cannot read: {error}")).kind is kind
    assert Failure.of(RuntimeError(f"read failed. Detail: [errno {number}] {os.strerror(number)}")).kind is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AcceleratorError(f"CUDA error: uncorrectable ECC error encountered{ASYNCHRONOUS}"), GPU),
        (RuntimeError(f"CUDA error: unspecified launch failure{ASYNCHRONOUS}"), GPU),
        (AcceleratorError(f"CUDA error: an illegal memory access was encountered{ASYNCHRONOUS}"), GPU),
        (AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), GPU),
        (AcceleratorError("CUDA error: uncorrectable NVLink error detected during the execution"), GPU),
        (AcceleratorError("CUDA error: the launch timed out and was terminated"), GPU),
        (AcceleratorError("CUDA error: system not yet initialized"), GPU),
        (AcceleratorError("CUDA error: unknown error"), GPU),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), GPU),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"), GPU),
        (RuntimeError("No CUDA GPUs are available"), GPU),
        (RuntimeError("Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before"), GPU),
        (RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"), GPU),
        (AcceleratorError(f"CUDA error: device-side assert triggered{ASYNCHRONOUS}"), FailureClass.CODE),
        (AcceleratorError("CUDA error: out of memory"), FailureClass.GPU_MEMORY),
        (
            DistBackendError(f"{NCCL}unhandled cuda error\nncclUnhandledCudaError: Call to CUDA function failed.\n"
                             "Last error:\nCuda failure 2 'out of memory'"),
            FailureClass.GPU_MEMORY,
        ),
        (
            DistBackendError(f"{NCCL}unhandled cuda error\nncclUnhandledCudaError: Call to CUDA function failed.\n"
                             "Last error:\nCuda failure 'uncorrectable ECC error encountered'"),
            GPU,
        ),
        (
            DistBackendError(f"{NCCL}unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version "
                             "2.28.9\nncclSystemError: System call (e.g. socket, malloc) or external library call "
                             "failed or device error. \nLast error:\nsocketPollConnect: connect returned error"),
            NET,
        ),
        (
            DistBackendError(f"{NCCL}unhandled system error\nncclSystemError: System call (e.g. socket, malloc) or "
                             "external library call failed or device error.\nLast error:\nError while creating shared "
                             "memory segment /dev/shm/nccl-x1 (size 9637888), error: No space left on device (28)"),
            SHM,
        ),
        (DistNetworkError("The client socket has failed to connect to any network address of (n7, 29500)."), NET),
        (RuntimeError("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=6, OpType="), NET),
        (TimeoutError("1 of 2 nodes joined Ray within 180 s"), NET),
        (TimeoutError("timed out"), NET),
        (
            RuntimeError("DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that "
                         "dataloader's workers are out of shared memory. Please try to raise your shared memory "
                         "limit."),
            SHM,
        ),
        (RuntimeError("unable to write to file </torch_4711_123_0>: No space left on device (28)"), SHM),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: Success (0)"), SHM),
        (DataWorkerError("out of shared memory: data workers cannot be started (No space left on device)"), SHM),
        (RuntimeError("DataLoader worker (pid(s) 17, 18) exited unexpectedly"), FailureClass.DATA_WORKER),
        (RuntimeError("can't start new thread"), NODE),
        (RuntimeError("received 0 items of ancdata"), NODE),
        (OutOfDiskError("Local disk is full"), NODE),
        (LocalDiskError("data_store needs 8.4 GB more in /tmp/x, where 0.1 GB are free"), NODE),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), FailureClass.GPU_MEMORY),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            FailureClass.GPU_MEMORY,
        ),
        (RuntimeError("CUDA driver error: out of memory"), FailureClass.GPU_MEMORY),
        (RuntimeError("CUDA driver error: unknown error"), GPU),
        (RuntimeError("Triton Error [CUDA]: out of memory"), FailureClass.GPU_MEMORY),
        (RuntimeError("GET was unable to find an engine to execute this computation"), FailureClass.GPU_MEMORY),
        (RuntimeError("FIND was unable to find an engine to execute this computation"), FailureClass.GPU_MEMORY),
        (RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"), FailureClass.GPU_MEMORY),
        (
            RuntimeError("CUDA ran out of memory outside PyTorch's allocator. If this workload uses many dynamic "
                         "shapes, cuDNN may need additional device memory"),
            FailureClass.GPU_MEMORY,
        ),
        (RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), FS),
        (RuntimeError("NCCL communicator was aborted on rank 1."), NET),
        (RuntimeError("NCCL communicator was aborted after a previous error"), NET),
        (RuntimeError("NCCL Error 1: unhandled cuda error (run with NCCL_DEBUG=INFO for details)"), GPU),
        (RuntimeError("NCCL Error 2: unhandled system error (run with NCCL_DEBUG=INFO for details)"), NET),
        (
            RuntimeError("NCCL Error 6: remote process exited or there was a network error"),
            FailureClass.LOST,
        ),
        (RuntimeError("Socket Timeout"), NET),
        (
            RuntimeError("The server socket has failed to listen on any local network address. port: 29500, useIpv6: "
                         "false, code: -98, name: EADDRINUSE, message: address already in use"),
            NET,
        ),
        (RuntimeError("Failed to initialize NVML: Driver/library version mismatch"), GPU),
        (NVMLError("RM has detected an NVML/RM version mismatch."), GPU),
        (RuntimeError("unable to mmap 4096 bytes from file </torch_17_2_0>: Cannot allocate memory (12)"), SHM),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/dev/shm/sem.x"), SHM),
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT), "/dev/shm/torch_17"), SHM),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x/inductor"), NODE),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/shared/runs/x"), FailureClass.DISK_FULL),
        (OSError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']"), NODE),
        (LocalRayletDiedError("The task's local raylet died."), FailureClass.LOST),
        (MissingFileError("data_root must be the folder of the data set"), GONE),
        (ImportError("libcudart.so.13: cannot open shared object file: No such file or directory"), GONE),
    ],
)  # fmt: skip
def test_real_messages_are_classified(error, kind):
    assert Failure.of(error).kind is kind


def test_what_ray_itself_fails_of_is_a_loss():
    for error in (
        RaySystemError("the raylet was killed"),
        OwnerDiedError("00ff", None, ""),
        ObjectLostError("00ff", None, ""),
        RuntimeEnvSetupError("no answer"),
        ActorUnavailableError("no answer", None),
    ):
        assert Failure.of(error).kind is FailureClass.LOST, error


def test_cause_is_told_before_what_was_made_of_it():
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        raise ValueError("image 1.png cannot be decoded") from OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    assert Failure.of(caught.value).kind is FS


class Images(Dataset):
    """One image, at reading which something happens."""

    def __init__(self, path, happens=None):
        self.path, self.happens = path, happens

    def __len__(self):
        return 1

    def __getitem__(self, place):
        if self.happens is not None:
            self.happens()
        return torch.from_numpy(read_image(self.path, "image 1.png"))


def failure_of(images: Images) -> FailureClass:
    context = multiprocessing.get_context("fork")
    with pytest.raises((ValueError, OSError, RuntimeError)) as caught:
        next(iter(DataLoader(images, num_workers=1, multiprocessing_context=context)))
    return Failure.of(caught.value).kind


def answer_with_errors() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO), "/shared/1.png")


def test_what_happens_in_a_data_worker_is_told_in_the_process_that_trains(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert failure_of(Images(tmp_path / "gone.png")) is GONE
    assert failure_of(Images(tmp_path / "bad.png")) is FailureClass.BAD_DATA
    assert failure_of(Images(tmp_path / "bad.png", answer_with_errors)) is FS


KILLED = """
import os, signal
from torch.utils.data import DataLoader
from orchestration.runs.failures import Failure

class Dies(list):
    def __getitem__(self, place):
        os.kill(os.getpid(), signal.SIGKILL)

try:
    next(iter(DataLoader(Dies([0]), num_workers=1, multiprocessing_context="fork")))
except RuntimeError as error:
    print(Failure.of(error).kind, error, sep=": ", flush=True)
os._exit(0)  # torch tells of it once more in whatever comes next
"""


def test_data_worker_that_is_killed_is_told_as_torch_tells_it():
    said = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=True).stdout
    assert said.startswith("data worker killed: DataLoader worker (pid")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_node_without_the_gpu_that_it_should_have_is_a_fault_of_the_gpu():
    with pytest.raises(ValueError, match="torch finds no GPU here") as caught:
        choose_device("cuda")
    assert Failure.of(caught.value).kind is GPU
