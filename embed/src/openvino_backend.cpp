// OpenVINO's CPU plugin: the FP32 and the INT8 graph, and the FP32 graph in BF16. The precision is always stated: left
// to itself, OpenVINO computes an FP32 graph in BF16 on CPUs that can, and scores move.
#include <algorithm>
#include <mutex>
#include <openvino/openvino.hpp>
#include <sstream>

#include "backend.h"
#include "batch_cache.h"
#include "blob_cache.h"
#include "error.h"
#include "openvino_graph.h"
#include "pool.h"

namespace kdx::embed {

namespace {

constexpr const char *kDevice = "CPU";
// A compiled model holds weights of its own, laid out for its batch size.
constexpr std::size_t kKeptBatchSizes = 4;  // beside those that kdx_open compiles

bool computes(const std::string &precision) {
    if (precision != "bf16") return true;
    ov::Core core;
    const auto found = core.get_property(kDevice, ov::device::capabilities);
    return std::find(found.begin(), found.end(), "BF16") != found.end();
}

// A model compiled for one batch size, and its inference requests.
class Compiled {
public:
    Compiled(std::size_t size, ov::CompiledModel model)
        : batch(size), model_(std::move(model)), image_(model_.input().get_shape()), requests_([this] {
              return std::make_unique<ov::InferRequest>(model_.create_infer_request());
          }) {}

    void run(const std::uint8_t *images, const Sink &sink) {
        auto request = requests_.take();
        // The images are read where they lie; OpenVINO does not write to an input.
        request->set_input_tensor(ov::Tensor(ov::element::u8, image_, const_cast<std::uint8_t *>(images)));
        request->infer();
        const auto maps = request->get_tensor("anomaly_map"), scores = request->get_tensor("anomaly_score");
        const auto size = maps.get_size() / batch;
        for (std::size_t i = 0; i < batch; ++i)
            sink(i, scores.data<const float>()[i], maps.data<const float>() + i * size);
        request.give_back();
    }

    const std::size_t batch;

private:
    ov::CompiledModel model_;
    ov::Shape image_;
    Pool<ov::InferRequest> requests_;
};

// The bytes that were hashed when the bundle was opened: every batch size is compiled from them, whatever has become of the
// file since. They are kept as they are until a size has to be compiled, which a start from the cache may never do, and from
// then on as the model that was read from them. Compiled models keep the weights that they were compiled from; those of clones
// are the same memory. With 99 MiB of weights, kept bytes that are read again for each size took 345 MiB for one compiled size
// and 203 for each further one, and 1.2 s of reading each time; a kept model takes 246 and 104, and no time.
class GraphSource {
public:
    explicit GraphSource(std::string bytes) : bytes_(std::move(bytes)) {}

    std::shared_ptr<ov::Model> read(ov::Core &core) {
        const std::lock_guard lock(mutex_);
        if (!model_) {
            model_ = core.read_model(bytes_, ov::Tensor());
            std::string().swap(bytes_);
        }
        return model_->clone();
    }

private:
    std::mutex mutex_;
    std::string bytes_;
    std::shared_ptr<ov::Model> model_;
};

class OpenVino : public Backend {
public:
    OpenVino(const Bundle &bundle, std::string graph, const BackendOptions &options)
        : graph_(std::move(graph)),
          sha256_(bundle.hash_of(Bundle::graph_name(options.precision))),
          is_bf16_(options.precision == "bf16"),
          threads_(options.threads),
          max_batch_(static_cast<std::size_t>(bundle.max_batch)),
          cache_(options.cache, options.is_signed),
          models_(kKeptBatchSizes, [this](std::size_t batch) { return std::make_shared<Compiled>(batch, load(batch)); }) {
        // Single images are judged at any time: batches of other sizes must not displace their model.
        prepare(1);
    }

    const char *name() const override { return "openvino"; }
    std::size_t max_batch() const override { return max_batch_; }

    void prepare(std::size_t count) override {
        guarded("cannot compile the graph for " + std::to_string(count) + " images", [&] { models_.keep(count); });
    }

    void run(const std::uint8_t *images, std::size_t count, const Sink &sink) override {
        guarded("failed on " + std::to_string(count) + " images", [&] { models_.get(count)->run(images, sink); });
    }

private:
    template <class Action>
    static void guarded(const std::string &what, Action &&action) {
        try {
            action();
        } catch (const Failure &) {
            throw;
        } catch (const std::bad_alloc &) {
            throw;
        } catch (const std::exception &error) {
            throw Failure(KDX_ERROR_BACKEND, "OpenVINO " + what + ": " + error.what());
        }
    }

    ov::AnyMap configuration() const {
        ov::AnyMap config{
            ov::hint::inference_precision(is_bf16_ ? ov::element::bf16 : ov::element::f32),
            ov::hint::execution_mode(is_bf16_ ? ov::hint::ExecutionMode::PERFORMANCE : ov::hint::ExecutionMode::ACCURACY),
            ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
            ov::hint::enable_cpu_pinning(false)};  // pinned threads of two processes would share the first cores
        if (threads_ > 0) config.insert(ov::inference_num_threads(threads_));
        return config;
    }

    ov::CompiledModel load(std::size_t batch) {
        std::ostringstream key;
        // "2": earlier versions kept under a bundle's hash what they had compiled from a file that had replaced its graph.
        key << "embed 2\n" << KDX_VERSION << '\n' << ov::get_openvino_version().buildNumber << '\n'
            << core_.get_property(kDevice, ov::device::full_name) << '\n' << sha256_ << '\n' << batch << '\n'
            << is_bf16_ << '\n' << threads_;
        if (const auto blob = cache_.read(key.str())) {
            std::istringstream stream(*blob);
            try {
                return core_.import_model(stream, kDevice, configuration());
            } catch (const std::exception &) {
                // Whole, but not for this OpenVINO.
            }
        }
        auto model = graph_.read(core_);
        auto shape = model->input().get_partial_shape();
        shape[0] = static_cast<std::int64_t>(batch);
        model->reshape(shape);
        reduce_channel_sums(*model);
        use_unsigned_activations(*model);
        if (is_bf16_) model = with_fp32_island(core_, model);
        auto compiled = core_.compile_model(model, kDevice, configuration());
        if (cache_.is_kept()) {
            std::ostringstream stream;
            compiled.export_model(stream);
            cache_.write(key.str(), stream.str());
        }
        return compiled;
    }

    // A core of its own: nothing outlives the detector.
    ov::Core core_;
    GraphSource graph_;
    const std::string sha256_;  // of the bytes that the graph is read from, by which compiled models are cached
    const bool is_bf16_;
    const int threads_;
    const std::size_t max_batch_;
    const BlobCache cache_;
    BatchCache<Compiled> models_;
};

}  // namespace

BackendKind openvino_kind() {
    return {"openvino",
            {"int8", "bf16", "fp32"},
            computes,
            [](const Bundle &bundle, std::string graph, const BackendOptions &options) -> std::unique_ptr<Backend> {
                return std::make_unique<OpenVino>(bundle, std::move(graph), options);
            }};
}

}  // namespace kdx::embed
