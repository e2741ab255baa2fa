#include <cstdlib>
#include <cstring>
#include <utility>

#include "state.h"

using namespace fake;

#define KDX_FAKE_CALL               \
    const Lock lock(state().mutex); \
    if (fails(__func__)) return cudaErrorUnknown

static thread_local int selected = 0;  // there are two GPUs

cudaError_t cudaSetDevice(int device) {
    KDX_FAKE_CALL;
    if (device != 0 && device != 1) return cudaErrorInvalidValue;
    selected = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    KDX_FAKE_CALL;
    *device = selected;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int) {
    KDX_FAKE_CALL;
    std::strcpy(properties->name, "A card");
    properties->major = 8, properties->minor = 6;
    return cudaSuccess;
}

cudaError_t cudaGetLastError() {
    const Lock lock(state().mutex);
    return std::exchange(state().last, cudaSuccess);
}

const char *cudaGetErrorString(cudaError_t) { return "it failed"; }

static cudaError_t allocate(void **memory, std::size_t bytes) {
    *memory = std::malloc(bytes);
    std::memset(*memory, 0xA5, bytes);
    state().held.insert(*memory);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, std::size_t bytes) {
    KDX_FAKE_CALL;
    return allocate(memory, bytes);
}

cudaError_t cudaMallocHost(void **memory, std::size_t bytes) {
    KDX_FAKE_CALL;
    return allocate(memory, bytes);
}

static cudaError_t release(void *memory, const char *name) {
    const Lock lock(state().mutex);
    if (selected != 0 && state().failed.empty()) misuse(std::string(name) + " while another GPU is selected");
    if (release_object(memory, name)) std::free(memory);
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory) { return release(memory, "cudaFree"); }
cudaError_t cudaFreeHost(void *memory) { return release(memory, "cudaFreeHost"); }

cudaError_t cudaMemcpyAsync(void *target, const void *source, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    KDX_FAKE_CALL;
    stream->queue([=] { std::memcpy(target, source, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    KDX_FAKE_CALL;
    state().held.insert(*stream = new FakeStream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const Lock lock(state().mutex);
    if (stream->is_capturing || (!stream->pending.empty() && state().failed.empty()))
        misuse("a stream is destroyed while it captures or works");
    if (release_object(stream, "cudaStreamDestroy")) delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    KDX_FAKE_CALL;
    if (stream->is_capturing) misuse("a caller waits for a stream that captures");
    for (const auto &operation : std::exchange(stream->pending, {})) operation();
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    KDX_FAKE_CALL;
    if (stream->is_capturing) misuse("a capture begins on a stream that already captures");
    stream->is_capturing = stream->is_valid = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    const Lock lock(state().mutex);
    if (!stream->is_capturing) misuse("a capture ends that did not begin");
    // This function ends the capture even if it returns an error.
    stream->is_capturing = false;
    auto captured = std::exchange(stream->captured, {});
    *graph = nullptr;
    if (fails(__func__)) return cudaErrorUnknown;
    if (!stream->is_valid) return state().last = cudaErrorStreamCaptureInvalidated;
    state().held.insert(*graph = new FakeGraph{std::move(captured)});
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long) {
    KDX_FAKE_CALL;
    state().held.insert(*executable = new FakeGraphExec{graph->operations});
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    const Lock lock(state().mutex);
    if (release_object(graph, "cudaGraphDestroy")) delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    const Lock lock(state().mutex);
    if (release_object(graph, "cudaGraphExecDestroy")) delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    KDX_FAKE_CALL;
    for (const auto &operation : graph->operations) stream->queue(operation);
    return cudaSuccess;
}
