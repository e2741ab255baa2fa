#include "fake.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <utility>

#include "NvInfer.h"

namespace {

using Operation = std::function<void()>;

struct Fakes {
    std::recursive_mutex mutex;
    std::vector<std::string> misuses;
    std::map<std::string, std::size_t> calls;
    std::set<const void *> held;
    std::size_t fail_at = 0;
    std::string fail_name, failed;
    bool refuses_captures = false;
    cudaError_t last = cudaSuccess;
};

Fakes &fakes() {
    static Fakes made;
    return made;
}

void misuse(const std::string &what) { fakes().misuses.push_back(what); }

// Counts a call, and says whether it is the one to fail.
bool fails(const char *name) {
    auto &all = fakes();
    ++all.calls[name];
    if (all.fail_at == 0 || (!all.fail_name.empty() && all.fail_name != name) || --all.fail_at) return false;
    all.failed = name;
    all.last = cudaErrorUnknown;
    return true;
}

// Frees what is held; what is not was freed twice or never made.
bool let_go(const void *thing, const char *name) {
    if (fakes().held.erase(thing)) return true;
    misuse(std::string(name) + " of what is not there");
    return false;
}

using Lock = std::lock_guard<std::recursive_mutex>;

}  // namespace

#define KDX_FAKE_CALL                \
    const Lock lock(fakes().mutex);  \
    if (fails(__func__)) return cudaErrorUnknown

struct FakeStream {
    std::vector<Operation> pending, captured;
    bool is_capturing = false, is_valid = true;

    void queue(Operation operation) { (is_capturing ? captured : pending).push_back(std::move(operation)); }
};
struct FakeGraph {
    std::vector<Operation> operations;
};
struct FakeGraphExec {
    std::vector<Operation> operations;
};

// CUDA

cudaError_t cudaSetDevice(int device) {
    KDX_FAKE_CALL;
    return device == 0 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int) {
    KDX_FAKE_CALL;
    std::strcpy(properties->name, "A card");
    properties->major = 8, properties->minor = 6;
    return cudaSuccess;
}

cudaError_t cudaGetLastError() {
    const Lock lock(fakes().mutex);
    return std::exchange(fakes().last, cudaSuccess);
}

const char *cudaGetErrorString(cudaError_t) { return "it failed"; }

static cudaError_t allocate(void **memory, std::size_t bytes) {
    *memory = std::malloc(bytes);
    std::memset(*memory, 0xA5, bytes);
    fakes().held.insert(*memory);
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
    const Lock lock(fakes().mutex);
    if (let_go(memory, name)) std::free(memory);
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
    fakes().held.insert(*stream = new FakeStream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const Lock lock(fakes().mutex);
    if (stream->is_capturing || (!stream->pending.empty() && fakes().failed.empty()))
        misuse("a stream is destroyed while it captures or works");
    if (let_go(stream, "cudaStreamDestroy")) delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    KDX_FAKE_CALL;
    if (stream->is_capturing) misuse("someone waits for a stream that captures");
    for (const auto &operation : std::exchange(stream->pending, {})) operation();
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    KDX_FAKE_CALL;
    if (stream->is_capturing) misuse("a stream that captures is captured");
    stream->is_capturing = stream->is_valid = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    const Lock lock(fakes().mutex);
    if (!stream->is_capturing) misuse("a capture is ended that was not begun");
    // Ending takes the stream out of capture also where it fails.
    stream->is_capturing = false;
    auto captured = std::exchange(stream->captured, {});
    *graph = nullptr;
    if (fails(__func__)) return cudaErrorUnknown;
    if (!stream->is_valid) return fakes().last = cudaErrorStreamCaptureInvalidated;
    fakes().held.insert(*graph = new FakeGraph{std::move(captured)});
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long) {
    KDX_FAKE_CALL;
    fakes().held.insert(*executable = new FakeGraphExec{graph->operations});
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    const Lock lock(fakes().mutex);
    if (let_go(graph, "cudaGraphDestroy")) delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    const Lock lock(fakes().mutex);
    if (let_go(graph, "cudaGraphExecDestroy")) delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    KDX_FAKE_CALL;
    for (const auto &operation : graph->operations) stream->queue(operation);
    return cudaSuccess;
}

// TensorRT

namespace nvinfer1 {

// "height width channels, height and width of the map, and the largest batch of each profile", as text.
struct ICudaEngine::Plan {
    std::size_t image_bytes, map_values;
    Dims image;
    std::vector<std::int64_t> batches;
};

// Outlives its context, so that a graph that replays afterwards is noticed.
struct IExecutionContext::State {
    std::map<std::string, void *> addresses;
    std::size_t version = 0;
    std::int64_t profile = -1, batch = -1;
    bool is_deferred = true, is_there = true;

    void changed() { ++version, is_deferred = true; }
};

IExecutionContext::IExecutionContext(ICudaEngine &engine) : state_(std::make_shared<State>()), engine_(engine) {
    fakes().held.insert(this);
}

IExecutionContext::~IExecutionContext() {
    const Lock lock(fakes().mutex);
    state_->is_there = false;
    let_go(this, "a context's destructor");
    if (!fakes().held.count(&engine_)) misuse("a context outlives its engine");
}

bool IExecutionContext::setOptimizationProfileAsync(std::int32_t profile, cudaStream_t) noexcept {
    const Lock lock(fakes().mutex);
    if (fails(__func__)) return false;
    state_->profile = profile;
    state_->changed();
    return true;
}

bool IExecutionContext::setInputShape(const char *, const Dims &shape) noexcept {
    const Lock lock(fakes().mutex);
    if (fails(__func__)) return false;
    const auto &plan = *engine_.plan;
    const bool is_image = std::equal(shape.d + 1, shape.d + 4, plan.image.d + 1);
    if (!is_image || state_->profile < 0 || shape.d[0] < 1 || shape.d[0] > plan.batches[static_cast<std::size_t>(state_->profile)])
        misuse("a shape that the profile does not take");
    // To say the same again changes nothing.
    if (std::exchange(state_->batch, shape.d[0]) != shape.d[0]) state_->changed();
    return true;
}

bool IExecutionContext::setTensorAddress(const char *tensor, void *address) noexcept {
    const Lock lock(fakes().mutex);
    if (fails(__func__)) return false;
    if (std::exchange(state_->addresses[tensor], address) != address) state_->changed();
    return true;
}

bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
    const Lock lock(fakes().mutex);
    if (fails(__func__)) return false;
    if (state_->batch < 1 || state_->addresses.size() != 3) misuse("TensorRT runs without shape or addresses");
    if (stream->is_capturing && state_->is_deferred) misuse("a capture before a plain enqueue");
    if (stream->is_capturing && fakes().refuses_captures) return stream->is_valid = false;
    state_->is_deferred = false;
    const auto *images = static_cast<const unsigned char *>(state_->addresses["image"]);
    auto *maps = static_cast<float *>(state_->addresses["anomaly_map"]);
    auto *scores = static_cast<float *>(state_->addresses["anomaly_score"]);
    stream->queue([=, state = state_, version = state_->version, batch = static_cast<std::size_t>(state_->batch),
                   image = engine_.plan->image_bytes, map = engine_.plan->map_values] {
        if (!state->is_there || state->version != version) return misuse("a graph replays after its context was changed");
        for (std::size_t i = 0; i < batch; ++i) {
            scores[i] = fake::score_of(images + i * image, image);
            std::fill_n(maps + i * map, map, scores[i]);
        }
    });
    return true;
}

ICudaEngine::~ICudaEngine() {
    const Lock lock(fakes().mutex);
    let_go(this, "an engine's destructor");
}

std::int32_t ICudaEngine::getNbOptimizationProfiles() const noexcept { return static_cast<std::int32_t>(plan->batches.size()); }

Dims ICudaEngine::getTensorShape(const char *) const noexcept { return plan->image; }

IExecutionContext *ICudaEngine::createExecutionContext() noexcept {
    const Lock lock(fakes().mutex);
    return fails(__func__) ? nullptr : new IExecutionContext(*this);
}

IRuntime::IRuntime(ILogger &log) : log_(log) { fakes().held.insert(this); }

IRuntime::~IRuntime() {
    const Lock lock(fakes().mutex);
    let_go(this, "a runtime's destructor");
}

ICudaEngine *IRuntime::deserializeCudaEngine(const void *plan, std::size_t size) noexcept {
    const Lock lock(fakes().mutex);
    if (fails(__func__)) return log_.log(ILogger::Severity::kERROR, "the plan is not for this card"), nullptr;
    std::istringstream text(std::string(static_cast<const char *>(plan), size));
    auto *engine = new ICudaEngine;
    auto &read = *(engine->plan = std::make_unique<ICudaEngine::Plan>());
    std::int64_t map_height = 0, map_width = 0;
    text >> read.image.d[1] >> read.image.d[2] >> read.image.d[3] >> map_height >> map_width;
    read.image.nbDims = 4, read.image.d[0] = -1;
    read.image_bytes = static_cast<std::size_t>(read.image.d[1] * read.image.d[2] * read.image.d[3]);
    read.map_values = static_cast<std::size_t>(map_height * map_width);
    for (std::int64_t batch = 0; text >> batch;) read.batches.push_back(batch);
    fakes().held.insert(engine);
    return engine;
}

IRuntime *createInferRuntime(ILogger &log) noexcept {
    const Lock lock(fakes().mutex);
    return fails(__func__) ? nullptr : new IRuntime(log);
}

}  // namespace nvinfer1

std::int32_t getInferLibVersion() noexcept { return 101601; }

// For tests

namespace fake {

std::vector<std::string> misuses() {
    const Lock lock(fakes().mutex);
    return fakes().misuses;
}

std::size_t calls(const std::string &name) {
    const Lock lock(fakes().mutex);
    std::size_t found = 0;
    for (const auto &[each, count] : fakes().calls)
        if (name.empty() || each == name) found += count;
    return found;
}

void fail_at(std::size_t count, const std::string &name) {
    const Lock lock(fakes().mutex);
    fakes().fail_at = count, fakes().fail_name = name, fakes().failed.clear();
}

std::string failed() {
    const Lock lock(fakes().mutex);
    return fakes().failed;
}

void refuse_captures(bool refused) {
    const Lock lock(fakes().mutex);
    fakes().refuses_captures = refused;
}

std::size_t held() {
    const Lock lock(fakes().mutex);
    return fakes().held.size();
}

float score_of(const unsigned char *image, std::size_t bytes) {
    double sum = 0;
    for (std::size_t i = 0; i < bytes; ++i) sum += image[i];
    return static_cast<float>(sum / static_cast<double>(bytes) / 4096);  // far below any threshold
}

}  // namespace fake
