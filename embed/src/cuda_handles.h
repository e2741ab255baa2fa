// CUDA memory, streams and graphs with destructors.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>

#include "error.h"

namespace kdx::embed {

inline void check(cudaError_t status, const char *what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // otherwise the next call reports it again
    throw Failure(KDX_ERROR_BACKEND, std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

// Selects a GPU for this thread, and then the one that the caller had selected.
class SelectedDevice {
public:
    explicit SelectedDevice(int device) {
        check(cudaGetDevice(&before_), "the GPU in use");
        check(cudaSetDevice(device), "selecting the GPU");
    }
    ~SelectedDevice() { cudaSetDevice(before_); }
    SelectedDevice(const SelectedDevice &) = delete;
    SelectedDevice &operator=(const SelectedDevice &) = delete;

private:
    int before_ = 0;
};

struct FreeDevice {
    void operator()(void *memory) const { cudaFree(memory); }
};
struct FreeHost {
    void operator()(void *memory) const { cudaFreeHost(memory); }
};

using DeviceMemory = std::unique_ptr<void, FreeDevice>;

inline DeviceMemory allocate_device(std::size_t bytes) {
    void *memory = nullptr;
    check(cudaMalloc(&memory, bytes), "device memory");
    return DeviceMemory(memory);
}

// Device memory, and pinned host memory of the same size.
struct Buffer {
    DeviceMemory device;
    std::unique_ptr<void, FreeHost> host;

    explicit Buffer(std::size_t bytes) : device(allocate_device(bytes)) {
        void *memory = nullptr;
        check(cudaMallocHost(&memory, bytes), "pinned memory");
        host.reset(memory);
    }
};

class Stream {
public:
    Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;
    operator cudaStream_t() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

struct DestroyGraph {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyGraph>;

}  // namespace kdx::embed
