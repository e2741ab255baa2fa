// TensorRT: it runs a plan of the bundle. The second call in a row with a batch size is captured as
// a CUDA graph, and a different batch size in the same profile drops the graph. The rule and its
// reasons are those of kdx/runtime/tensorrt/cuda/profile.py. The backend runs one call at a time:
// the GPU would run them one after another anyway, and TensorRT before version 10 allows only one
// context per optimisation profile.
#include <NvInfer.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>
#if !defined(_WIN32)
#include <sys/utsname.h>
#endif

#include "backend.h"
#include "cuda_handles.h"
#include "engine_record.h"
#include "error.h"

namespace kdx::embed {

namespace {

void require_success(bool done, const char *what) {
    if (!done) throw Failure(KDX_ERROR_BACKEND, std::string("TensorRT: ") + what);
}

// Keeps TensorRT's last error message instead of printing it.
class Log : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char *text) noexcept override {
        if (severity > Severity::kERROR) return;
        try {
            const std::lock_guard lock(mutex_);
            last_ = text;
        } catch (...) {  // out of memory: the message is lost
        }
    }
    // Returns the last error, and removes it: it does not explain a later failure.
    std::string take() {
        const std::lock_guard lock(mutex_);
        const auto taken = std::exchange(last_, "");
        return taken.empty() ? "no reason was given" : taken;
    }

private:
    std::mutex mutex_;
    std::string last_;
};

// The log is read only here: an argument that reads it might be evaluated before the call whose
// result `done` is.
void require_success(bool done, Log &log) {
    if (!done) require_success(false, log.take().c_str());
}

std::string version_of_tensorrt() {
    const int version = getInferLibVersion();
    // The number is 8601 for 8.6.1 and 101601 for 10.16.1.
    const int major = version < 10000 ? version / 1000 : version / 10000;
    const int rest = version < 10000 ? version % 1000 : version % 10000;
    return std::to_string(major) + '.' + std::to_string(rest / 100) + '.' + std::to_string(rest % 100);
}

Machine machine_of(int device) {
    cudaDeviceProp card{};
    check(cudaGetDeviceProperties(&card, device), "the properties of the GPU");
    Machine machine{version_of_tensorrt(), std::to_string(card.major) + '.' + std::to_string(card.minor), card.name,
                    ""};
#if defined(_WIN32)
    machine.system = "Windows AMD64";
#else
    utsname system{};
    uname(&system);
    machine.system = std::string(system.sysname) + ' ' + system.machine;
#endif
    return machine;
}

// Execution contexts that compute in memory of the caller: one block serves those of all profiles,
// because calls take turns. TensorRT would otherwise give each one memory for the largest profile.
// The counterpart of kdx/runtime/tensorrt/contexts.py.
nvinfer1::IExecutionContext *create_context(nvinfer1::ICudaEngine &engine) {
#if NV_TENSORRT_MAJOR >= 10
    return engine.createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED);
#else
    return engine.createExecutionContextWithoutDeviceMemory();
#endif
}

#if NV_TENSORRT_MAJOR > 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 1)
std::int64_t context_bytes(const nvinfer1::ICudaEngine &engine) { return engine.getDeviceMemorySizeV2(); }
void give_memory(nvinfer1::IExecutionContext &context, void *memory, std::int64_t bytes) {
    context.setDeviceMemoryV2(memory, bytes);
}
#else
std::int64_t context_bytes(const nvinfer1::ICudaEngine &engine) {
    return static_cast<std::int64_t>(engine.getDeviceMemorySize());
}
void give_memory(nvinfer1::IExecutionContext &context, void *memory, std::int64_t) { context.setDeviceMemory(memory); }
#endif

// The memory that an engine reads and writes. All profiles use it, as long as the detector lives.
struct Buffers {
    Buffer images, maps, scores;
    std::int64_t work_bytes;
    DeviceMemory work;  // in which all contexts compute

    Buffers(std::size_t image_bytes, std::size_t map_bytes, std::size_t most, std::int64_t context_bytes)
        : images(most * image_bytes),
          maps(most * map_bytes),
          scores(most * sizeof(float)),
          work_bytes(std::max<std::int64_t>(context_bytes, 1)),  // there is no address of 0 bytes
          work(allocate_device(static_cast<std::size_t>(work_bytes))) {}
};

// The execution context of an optimisation profile, the batch size that is set in it, and the CUDA
// graph captured from it. A graph is bound to the shapes and addresses of its context: launching it
// after they changed is undefined behaviour.
class Profile {
public:
    Profile(nvinfer1::ICudaEngine &engine, std::size_t index, const Buffers &buffers, cudaStream_t stream, Log &log)
        : context_(create_context(engine)), shape_(engine.getTensorShape("image")), log_(log) {
        require_success(context_ != nullptr, log);
        give_memory(*context_, buffers.work.get(), buffers.work_bytes);
        require_success(context_->setOptimizationProfileAsync(static_cast<std::int32_t>(index), stream),
                        "the profile was refused");
        check(cudaStreamSynchronize(stream), "setting the profile");
        require_success(context_->setTensorAddress("image", buffers.images.device.get()) &&
                            context_->setTensorAddress("anomaly_map", buffers.maps.device.get()) &&
                            context_->setTensorAddress("anomaly_score", buffers.scores.device.get()),
                        "a buffer was refused");
    }

    void set_batch(std::size_t count) {
        if (batch_ == count) return;
        forget();
        shape_.d[0] = static_cast<std::int32_t>(count);
        require_success(context_->setInputShape("image", shape_), "the images' shape was refused");
        batch_ = count;
    }

    void enqueue(cudaStream_t stream) {
        const bool done = context_->enqueueV3(stream);
        require_success(done, log_);
    }

    // Drops the graph and everything that is known about the context.
    void forget() {
        graph.reset();
        ran = false;
        batch_ = 0;
    }

    Graph graph;
    // Whether a plain call with this batch size succeeded. After a change TensorRT defers work to
    // the first call, which cannot be captured.
    bool ran = false;

private:
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    nvinfer1::Dims shape_;
    std::size_t batch_ = 0;  // 0: not known
    Log &log_;
};

// Created and used with its GPU selected.
class TensorRt : public Backend {
public:
    TensorRt(const Bundle &bundle, const BackendOptions &options)
        : device_(options.device),
          image_bytes_(static_cast<std::size_t>(bundle.height) * bundle.width * bundle.channels),
          map_values_(static_cast<std::size_t>(bundle.map_height) * bundle.map_width) {
        const auto record = find_engine(bundle, options.precision, machine_of(device_));
        const auto plan = read_plan(record);
        batches_ = record.batches;
        runtime_.reset(nvinfer1::createInferRuntime(log_));
        require_success(runtime_ != nullptr, "the runtime was not created");
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        require_success(engine_ != nullptr, log_);
        require_success(engine_->getNbOptimizationProfiles() == static_cast<int>(batches_.size()),
                        "the optimisation profiles of the plan differ from its record");
        require_fits("image", {bundle.height, bundle.width, bundle.channels});
        require_fits("anomaly_map", {bundle.map_height, bundle.map_width});
        buffers_ = std::make_unique<Buffers>(image_bytes_, map_values_ * sizeof(float), max_batch(),
                                             context_bytes(*engine_));
        profiles_.resize(batches_.size());
    }

    // What is freed belongs to its GPU: graphs and contexts before the engine, the engine before
    // its runtime and log. Where that GPU cannot be selected any more, it is freed all the same.
    ~TensorRt() override {
        int before = 0;
        const bool is_known = cudaGetDevice(&before) == cudaSuccess;
        cudaSetDevice(device_);
        profiles_.clear();
        stream_.reset();
        buffers_.reset();
        engine_.reset();
        runtime_.reset();
        if (is_known) cudaSetDevice(before);
    }

    Runtime runtime() const override { return Runtime::tensorrt; }
    std::size_t max_batch() const override { return static_cast<std::size_t>(batches_.back()); }

    // One call creates the execution context of that size.
    void prepare(std::size_t count) override {
        const std::vector<std::uint8_t> blank(count * image_bytes_);
        run(blank.data(), count, [](std::size_t, float, const float *) {});
    }

    void run(const std::uint8_t *images, std::size_t count, const Sink &sink) override {
        const std::lock_guard lock(mutex_);
        const SelectedDevice selected(device_);
        auto &profile = profile_for(count);
        try {
            profile.set_batch(count);
            std::memcpy(buffers_->images.host.get(), images, count * image_bytes_);
            if (profile.ran && !profile.graph && captures_) capture(profile, count);
            if (profile.graph)
                check(cudaGraphLaunch(profile.graph.get(), stream()), "launching the graph");
            else
                enqueue(profile, count);
            check(cudaStreamSynchronize(stream()), "the inference");
        } catch (...) {
            reset(profile);
            throw;
        }
        profile.ran = true;
        const auto *maps = static_cast<const float *>(buffers_->maps.host.get());
        const auto *scores = static_cast<const float *>(buffers_->scores.host.get());
        for (std::size_t i = 0; i < count; ++i) sink(i, scores[i], maps + i * map_values_);
    }

private:
    // Requires that the plan's arrays have the sizes in the index, by which memory is copied. A
    // negative length is one that TensorRT does not know before a call.
    void require_fits(const char *tensor, const std::vector<int> &sides) const {
        const auto shape = engine_->getTensorShape(tensor);
        bool fits = shape.nbDims == static_cast<int>(sides.size()) + 1;
        for (std::size_t i = 0; fits && i < sides.size(); ++i) fits = shape.d[i + 1] < 0 || shape.d[i + 1] == sides[i];
        if (!fits)
            throw Failure(KDX_ERROR_BACKEND,
                          std::string("the engine's '") + tensor + "' has another size than bundle.json says",
                          {"", "", "build the engine again (kdx build-engine --force)"});
    }

    // Queues the copy to the device, the inference and the copy back.
    void enqueue(Profile &profile, std::size_t count) {
        const auto &images = buffers_->images, &maps = buffers_->maps, &scores = buffers_->scores;
        copy(images.device.get(), images.host.get(), count * image_bytes_, cudaMemcpyHostToDevice);
        profile.enqueue(stream());
        copy(maps.host.get(), maps.device.get(), count * map_values_ * sizeof(float), cudaMemcpyDeviceToHost);
        copy(scores.host.get(), scores.device.get(), count * sizeof(float), cudaMemcpyDeviceToHost);
    }

    void copy(void *target, const void *source, std::size_t bytes, cudaMemcpyKind kind) {
        check(cudaMemcpyAsync(target, source, bytes, kind, stream()), "a copy");
    }

    // Captures the work of enqueue() as one graph. If that fails, all further calls are plain:
    // slower, but not wrong.
    void capture(Profile &profile, std::size_t count) {
        try {
            profile.graph = captured(profile, count);
        } catch (const Failure &) {
            captures_ = false;
            for (auto &each : profiles_)
                if (each) each->graph.reset();
            // An incomplete capture may have changed the context and the stream.
            reset(profile);
            profile.set_batch(count);
        }
    }

    Graph captured(Profile &profile, std::size_t count) {
        check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "beginning the capture");
        cudaGraph_t graph = nullptr;
        try {
            enqueue(profile, count);
        } catch (...) {
            // This call ends the capture even if it returns an error.
            if (cudaStreamEndCapture(stream(), &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
            throw;
        }
        check(cudaStreamEndCapture(stream(), &graph), "ending the capture");
        cudaGraphExec_t executable = nullptr;
        const auto status = cudaGraphInstantiateWithFlags(&executable, graph, 0);
        cudaGraphDestroy(graph);
        check(status, "instantiating the graph");
        return Graph(executable);
    }

    // Removes everything that a failed call left. The next call is a plain call on a new stream.
    void reset(Profile &profile) {
        profile.forget();
        if (!stream_) return;
        cudaStreamSynchronize(*stream_);
        stream_.reset();
        cudaGetLastError();  // otherwise the next call reports it again
    }

    cudaStream_t stream() {
        if (!stream_) stream_ = std::make_unique<Stream>();
        return *stream_;
    }

    // Returns the smallest profile that accepts `count` images. It is created completely on first
    // use, or not at all.
    Profile &profile_for(std::size_t count) {
        std::size_t index = 0;
        while (static_cast<std::size_t>(batches_[index]) < count) ++index;
        auto &profile = profiles_[index];
        if (!profile) profile = std::make_unique<Profile>(*engine_, index, *buffers_, stream(), log_);
        return *profile;
    }

    const int device_;
    const std::size_t image_bytes_, map_values_;
    std::vector<int> batches_;
    // Where the constructor fails, members are destroyed in reverse order, as in the destructor.
    Log log_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<Buffers> buffers_;
    std::unique_ptr<Stream> stream_;
    std::vector<std::unique_ptr<Profile>> profiles_;
    bool captures_ = true;
    std::mutex mutex_;
};

bool holds_engine(const Bundle &bundle, Precision precision, int device) {
    try {
        find_engine(bundle, precision, machine_of(device));
    } catch (const Failure &failure) {
        if (failure.status != KDX_ERROR_BACKEND) throw;
        return false;
    }
    return true;
}

}  // namespace

BackendKind tensorrt_kind() {
    return {Runtime::tensorrt,
            {Precision::int8, Precision::fp16, Precision::fp32},
            [](Precision) { return true; },
            holds_engine,
            // The plan was built from the graph, of which only the hash is needed here.
            [](const Bundle &bundle, const std::string &, const BackendOptions &options) -> std::unique_ptr<Backend> {
                const SelectedDevice selected(options.device);
                return std::make_unique<TensorRt>(bundle, options);
            },
            true};
}

}  // namespace kdx::embed
