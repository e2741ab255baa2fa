#include <algorithm>
#include <sstream>
#include <utility>

#include "NvInfer.h"
#include "fake.h"
#include "state.h"

using fake::fails;
using fake::Lock;
using fake::misuse;
using fake::release_object;
using fake::state;

namespace nvinfer1 {

constexpr std::int64_t kContextBytes = 512;

// "height width channels, height and width of the map, and the largest batch of each profile", as
// text.
struct ICudaEngine::Plan {
    std::size_t image_bytes, map_values;
    Dims image, map;
    std::vector<std::int64_t> batches;
};

// Outlives its context, so that the fake detects a graph that replays afterwards.
struct IExecutionContext::State {
    std::map<std::string, void *> addresses;
    std::size_t version = 0;
    std::int64_t profile = -1, batch = -1;
    bool is_deferred = true, is_there = true, is_user_managed = false;
    unsigned char *memory = nullptr;

    void changed() { ++version, is_deferred = true; }
};

IExecutionContext::IExecutionContext(ICudaEngine &engine, bool is_user_managed)
    : state_(std::make_shared<State>()), engine_(engine) {
    state_->is_user_managed = is_user_managed;
    state().held.insert(this);
}

// It returns nothing: what it does not take it logs.
void IExecutionContext::setDeviceMemoryV2(void *memory, std::int64_t size) noexcept {
    const Lock lock(state().mutex);
    if (!state_->is_user_managed || size < kContextBytes) {
        engine_.log->log(ILogger::Severity::kERROR, "the memory is not taken");
        return misuse("memory that a context does not take");
    }
    state_->memory = static_cast<unsigned char *>(memory);
    state_->changed();
}

IExecutionContext::~IExecutionContext() {
    const Lock lock(state().mutex);
    state_->is_there = false;
    release_object(this, "a context's destructor");
    if (!state().held.count(&engine_)) misuse("a context outlives its engine");
}

bool IExecutionContext::setOptimizationProfileAsync(std::int32_t profile, cudaStream_t) noexcept {
    const Lock lock(state().mutex);
    if (fails(__func__)) return false;
    state_->profile = profile;
    state_->changed();
    return true;
}

bool IExecutionContext::setInputShape(const char *, const Dims &shape) noexcept {
    const Lock lock(state().mutex);
    if (fails(__func__)) return false;
    const auto &plan = *engine_.plan;
    const bool is_image = std::equal(shape.d + 1, shape.d + 4, plan.image.d + 1);
    if (!is_image || state_->profile < 0 || shape.d[0] < 1 ||
        shape.d[0] > plan.batches[static_cast<std::size_t>(state_->profile)])
        misuse("a shape that the profile does not accept");
    // Setting the same value again changes nothing.
    if (std::exchange(state_->batch, shape.d[0]) != shape.d[0]) state_->changed();
    return true;
}

bool IExecutionContext::setTensorAddress(const char *tensor, void *address) noexcept {
    const Lock lock(state().mutex);
    if (fails(__func__)) return false;
    if (std::exchange(state_->addresses[tensor], address) != address) state_->changed();
    return true;
}

bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
    const Lock lock(state().mutex);
    if (fails(__func__)) return engine_.log->log(ILogger::Severity::kERROR, "the enqueue failed"), false;
    if (state_->batch < 1 || state_->addresses.size() != 3) misuse("TensorRT runs without shape or addresses");
    if (state_->is_user_managed && !state_->memory) misuse("a context runs without memory");
    if (stream->is_capturing && state_->is_deferred) misuse("a capture before a plain enqueue");
    if (stream->is_capturing && state().refuses_captures) return stream->is_valid = false;
    state_->is_deferred = false;
    const auto *images = static_cast<const unsigned char *>(state_->addresses["image"]);
    auto *maps = static_cast<float *>(state_->addresses["anomaly_map"]);
    auto *scores = static_cast<float *>(state_->addresses["anomaly_score"]);
    stream->queue([=, state = state_, version = state_->version, batch = static_cast<std::size_t>(state_->batch),
                   image = engine_.plan->image_bytes, map = engine_.plan->map_values] {
        if (!state->is_there || state->version != version)
            return misuse("a graph replays after its context was changed");
        if (state->memory) std::fill_n(state->memory, kContextBytes, static_cast<unsigned char>(batch));
        for (std::size_t i = 0; i < batch; ++i) {
            scores[i] = fake::score_of(images + i * image, image);
            std::fill_n(maps + i * map, map, scores[i]);
        }
    });
    return true;
}

ICudaEngine::~ICudaEngine() {
    const Lock lock(state().mutex);
    release_object(this, "an engine's destructor");
}

std::int32_t ICudaEngine::getNbOptimizationProfiles() const noexcept {
    return static_cast<std::int32_t>(plan->batches.size());
}

Dims ICudaEngine::getTensorShape(const char *tensor) const noexcept {
    return std::string(tensor) == "image" ? plan->image : plan->map;
}

std::int64_t ICudaEngine::getDeviceMemorySizeV2() const noexcept { return kContextBytes; }

IExecutionContext *ICudaEngine::createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept {
    const Lock lock(state().mutex);
    if (fails(__func__)) return nullptr;
    // The library shares one block of memory among the contexts of all profiles.
    if (strategy != ExecutionContextAllocationStrategy::kUSER_MANAGED) misuse("a context with memory of its own");
    return new IExecutionContext(*this, strategy == ExecutionContextAllocationStrategy::kUSER_MANAGED);
}

IRuntime::IRuntime(ILogger &log) : log_(log) { state().held.insert(this); }

IRuntime::~IRuntime() {
    const Lock lock(state().mutex);
    release_object(this, "a runtime's destructor");
}

ICudaEngine *IRuntime::deserializeCudaEngine(const void *plan, std::size_t size) noexcept {
    const Lock lock(state().mutex);
    if (fails(__func__)) return log_.log(ILogger::Severity::kERROR, "the plan is not for this card"), nullptr;
    std::istringstream text(std::string(static_cast<const char *>(plan), size));
    auto *engine = new ICudaEngine;
    engine->log = &log_;
    auto &read = *(engine->plan = std::make_unique<ICudaEngine::Plan>());
    std::int64_t map_height = 0, map_width = 0;
    text >> read.image.d[1] >> read.image.d[2] >> read.image.d[3] >> map_height >> map_width;
    read.image.nbDims = 4, read.image.d[0] = -1;
    read.map = {3, {-1, map_height, map_width}};
    read.image_bytes = static_cast<std::size_t>(read.image.d[1] * read.image.d[2] * read.image.d[3]);
    read.map_values = static_cast<std::size_t>(map_height * map_width);
    for (std::int64_t batch = 0; text >> batch;) read.batches.push_back(batch);
    state().held.insert(engine);
    return engine;
}

IRuntime *createInferRuntime(ILogger &log) noexcept {
    const Lock lock(state().mutex);
    return fails(__func__) ? nullptr : new IRuntime(log);
}

}  // namespace nvinfer1

std::int32_t getInferLibVersion() noexcept { return 101601; }
