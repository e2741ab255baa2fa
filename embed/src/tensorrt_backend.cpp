// TensorRT: a plain plan and its engine.json from the bundle. Each batch size becomes one CUDA graph after a plain call.
// One call at a time: the card runs them one after another in any case, and TensorRT before 10 allows one context for
// each optimisation profile.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstring>
#include <map>
#include <mutex>
#if !defined(_WIN32)
#include <sys/utsname.h>
#endif

#include "backend.h"
#include "engine_record.h"
#include "error.h"

namespace kdx::embed {

namespace {

void check(cudaError_t status, const char *what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // or the next call reports it again
    throw Failure(KDX_ERROR_BACKEND, std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

void require(bool done, const char *what) {
    if (!done) throw Failure(KDX_ERROR_BACKEND, std::string("TensorRT: ") + what);
}

// Keeps TensorRT's last complaint instead of printing it.
class Log : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char *text) noexcept override {
        if (severity > Severity::kERROR) return;
        try {
            const std::lock_guard lock(mutex_);
            last_ = text;
        } catch (...) {  // no memory for words
        }
    }
    std::string last() {
        const std::lock_guard lock(mutex_);
        return last_.empty() ? "no reason was given" : last_;
    }

private:
    std::mutex mutex_;
    std::string last_;
};

struct FreeDevice {
    void operator()(void *memory) const { cudaFree(memory); }
};
struct FreeHost {
    void operator()(void *memory) const { cudaFreeHost(memory); }
};

// Memory on the card, and pinned memory of the same size on the host.
struct Buffer {
    std::unique_ptr<void, FreeDevice> device;
    std::unique_ptr<void, FreeHost> host;

    explicit Buffer(std::size_t bytes) {
        void *memory = nullptr;
        check(cudaMalloc(&memory, bytes), "device memory");
        device.reset(memory);
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

std::string version_of_tensorrt() {
    const int version = getInferLibVersion();
    // 8.6.1 is 8601, 10.16.1 is 101601.
    const int major = version < 10000 ? version / 1000 : version / 10000;
    const int rest = version < 10000 ? version % 1000 : version % 10000;
    return std::to_string(major) + '.' + std::to_string(rest / 100) + '.' + std::to_string(rest % 100);
}

Machine machine_of(int device) {
    cudaDeviceProp card{};
    check(cudaGetDeviceProperties(&card, device), "the card");
    Machine machine{version_of_tensorrt(), std::to_string(card.major) + '.' + std::to_string(card.minor), card.name, ""};
#if defined(_WIN32)
    machine.system = "Windows AMD64";
#else
    utsname system{};
    uname(&system);
    machine.system = std::string(system.sysname) + ' ' + system.machine;
#endif
    return machine;
}

class TensorRt : public Backend {
public:
    TensorRt(const Bundle &bundle, const BackendOptions &options)
        : device_(options.device),
          image_bytes_(static_cast<std::size_t>(bundle.height) * bundle.width * bundle.channels),
          map_values_(static_cast<std::size_t>(bundle.map_height) * bundle.map_width) {
        check(cudaSetDevice(device_), "the card");
        const auto record = find_engine(bundle, options.precision, machine_of(device_));
        const auto plan = read_plan(record);
        batches_ = record.batches;
        runtime_.reset(nvinfer1::createInferRuntime(log_));
        require(runtime_ != nullptr, "no runtime");
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        require(engine_ != nullptr, log_.last().c_str());
        require(engine_->getNbOptimizationProfiles() == static_cast<int>(batches_.size()),
                "the plan has other optimisation profiles than its record names");
        const auto most = max_batch();
        stream_ = std::make_unique<Stream>();
        images_ = std::make_unique<Buffer>(most * image_bytes_);
        maps_ = std::make_unique<Buffer>(most * map_values_ * sizeof(float));
        scores_ = std::make_unique<Buffer>(most * sizeof(float));
        contexts_.resize(batches_.size());
    }

    ~TensorRt() override { cudaSetDevice(device_); }

    const char *name() const override { return "tensorrt"; }
    std::size_t max_batch() const override { return static_cast<std::size_t>(batches_.back()); }

    void run(const std::uint8_t *images, std::size_t count, const Sink &sink) override {
        const std::lock_guard lock(mutex_);
        check(cudaSetDevice(device_), "the card");  // of this thread
        std::memcpy(images_->host.get(), images, count * image_bytes_);
        const auto graph = graphs_.find(count);
        if (graph != graphs_.end() && graph->second) {
            check(cudaGraphLaunch(graph->second.get(), *stream_), "a graph");
        } else {
            enqueue(count);
        }
        check(cudaStreamSynchronize(*stream_), "an inference");
        if (graph == graphs_.end()) graphs_[count] = captured(count);
        const auto *maps = static_cast<const float *>(maps_->host.get());
        const auto *scores = static_cast<const float *>(scores_->host.get());
        for (std::size_t i = 0; i < count; ++i) sink(i, scores[i], maps + i * map_values_);
    }

private:
    // Copies, inference and copies back, in order on the stream.
    void enqueue(std::size_t count) {
        auto &context = context_for(count);
        const auto shape = engine_->getTensorShape("image");
        auto wanted = shape;
        wanted.d[0] = static_cast<std::int32_t>(count);
        require(context.setInputShape("image", wanted), "the images' shape was refused");
        require(context.setTensorAddress("image", images_->device.get()) &&
                    context.setTensorAddress("anomaly_map", maps_->device.get()) &&
                    context.setTensorAddress("anomaly_score", scores_->device.get()),
                "a buffer was refused");
        copy(images_->device.get(), images_->host.get(), count * image_bytes_, cudaMemcpyHostToDevice);
        require(context.enqueueV3(*stream_), log_.last().c_str());
        copy(maps_->host.get(), maps_->device.get(), count * map_values_ * sizeof(float), cudaMemcpyDeviceToHost);
        copy(scores_->host.get(), scores_->device.get(), count * sizeof(float), cudaMemcpyDeviceToHost);
    }

    void copy(void *target, const void *source, std::size_t bytes, cudaMemcpyKind kind) {
        check(cudaMemcpyAsync(target, source, bytes, kind, *stream_), "a copy");
    }

    // Returns one CUDA graph of what enqueue does; none where that cannot be captured: it is slower then, not wrong.
    Graph captured(std::size_t count) {
        cudaGraph_t graph = nullptr;
        if (cudaStreamBeginCapture(*stream_, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return forget();
        bool is_whole = true;
        try {
            enqueue(count);
        } catch (const Failure &) {
            is_whole = false;
        }
        if (cudaStreamEndCapture(*stream_, &graph) != cudaSuccess || !is_whole || !graph) return forget();
        cudaGraphExec_t executable = nullptr;
        const auto status = cudaGraphInstantiateWithFlags(&executable, graph, 0);
        cudaGraphDestroy(graph);
        return status == cudaSuccess ? Graph(executable) : forget();
    }

    static Graph forget() {
        cudaGetLastError();
        return nullptr;
    }

    nvinfer1::IExecutionContext &context_for(std::size_t count) {
        std::size_t profile = 0;
        while (static_cast<std::size_t>(batches_[profile]) < count) ++profile;
        auto &context = contexts_[profile];
        if (!context) {
            context.reset(engine_->createExecutionContext());
            require(context != nullptr, log_.last().c_str());
            require(context->setOptimizationProfileAsync(static_cast<std::int32_t>(profile), *stream_), "a profile was refused");
            check(cudaStreamSynchronize(*stream_), "a profile");
        }
        return *context;
    }

    const int device_;
    const std::size_t image_bytes_, map_values_;
    std::vector<int> batches_;
    // Destroyed in the opposite order: graphs and contexts before the engine, the engine before its runtime and log.
    Log log_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<Stream> stream_;
    std::unique_ptr<Buffer> images_, maps_, scores_;
    std::vector<std::unique_ptr<nvinfer1::IExecutionContext>> contexts_;
    std::map<std::size_t, Graph> graphs_;
    std::mutex mutex_;
};

}  // namespace

BackendKind tensorrt_kind() {
    return {"tensorrt",
            {"fp16", "fp32"},
            [](const std::string &) { return true; },
            [](const Bundle &bundle, const BackendOptions &options) -> std::unique_ptr<Backend> {
                return std::make_unique<TensorRt>(bundle, options);
            }};
}

}  // namespace kdx::embed
