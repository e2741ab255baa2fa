// OpenVINO's CPU plugin. It runs the FP32 and the INT8 graph, and the FP32 graph in BF16. The
// precision is always set explicitly: by default, OpenVINO computes an FP32 graph in BF16 on CPUs
// that support it, which changes scores.
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
// Compiled models that are kept besides those that kdx_open compiles. Each holds its own weights,
// laid out for its batch size.
constexpr std::size_t kKeptBatchSizes = 4;

// Runs an action of OpenVINO, whose exceptions say neither which library failed nor at what.
template <class Action>
auto with_context(const std::string &what, Action &&action) {
    try {
        return action();
    } catch (const Failure &) {
        throw;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception &error) {
        throw Failure(KDX_ERROR_BACKEND, "OpenVINO " + what + ": " + error.what());
    }
}

bool computes(Precision precision) {
    if (precision != Precision::bf16) return true;
    const auto capabilities = with_context("cannot tell what this CPU computes", [] {
        return ov::Core().get_property(kDevice, ov::device::capabilities);
    });
    return std::find(capabilities.begin(), capabilities.end(), ov::device::capability::BF16) != capabilities.end();
}

std::string described(const ov::element::Type &type, const ov::Shape &shape) {
    std::ostringstream text;
    text << type << ' ' << shape;
    return text.str();
}

// Requires that a graph takes and returns what the index says: images and maps are read by these
// sizes.
void require_fits(const ov::CompiledModel &model, const Bundle &bundle, std::size_t batch) {
    const auto require = [&](const ov::Output<const ov::Node> &port, const ov::element::Type &type,
                             const std::vector<int> &sides) {
        ov::Shape shape = {batch};
        shape.insert(shape.end(), sides.begin(), sides.end());
        if (port.get_element_type() == type && port.get_shape() == shape) return;
        throw Failure(KDX_ERROR_BUNDLE,
                      "the graph of '" + bundle.path.string() + "' does not fit its bundle.json: '" +
                          port.get_any_name() + "' has another size",
                      {described(type, shape), described(port.get_element_type(), port.get_shape()),
                       "export the bundle again"});
    };
    require(model.input(), ov::element::u8, {bundle.height, bundle.width, bundle.channels});
    require(model.output("anomaly_map"), ov::element::f32, {bundle.map_height, bundle.map_width});
    require(model.output("anomaly_score"), ov::element::f32, {1});
}

// A model compiled for one batch size, and its inference requests.
class Compiled {
public:
    Compiled(std::size_t size, ov::CompiledModel model)
        : batch(size),
          model_(std::move(model)),
          image_(model_.input().get_shape()),
          requests_([this] { return std::make_unique<ov::InferRequest>(model_.create_infer_request()); }) {}

    void run(const std::uint8_t *images, const Sink &sink) {
        auto request = requests_.take();
        // The request reads the caller's memory directly. OpenVINO does not write to an input.
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

// The bytes of the graph that were hashed when the bundle was opened. Every batch size is compiled
// from them, even if the file has changed since. They stay as they are until the first size has to
// be compiled, which may never happen after a start from the cache. From then on the model that was
// read from them is kept instead, because compiled models share the weights of its clones. With 99
// MiB of weights, keeping bytes and reading them for each size took 345 MiB for the first compiled
// size, 203 MiB for each further size, and 1.2 s of reading each time. Keeping the model takes 246
// and 104 MiB, and no time.
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
        : bundle_(bundle),
          graph_(std::move(graph)),
          sha256_(bundle.hash_of(Bundle::graph_name(options.precision))),
          is_bf16_(options.precision == Precision::bf16),
          threads_(options.threads),
          max_batch_(static_cast<std::size_t>(bundle.max_batch)),
          cache_(options.cache, options.is_signed),
          models_(kKeptBatchSizes,
                  [this](std::size_t batch) {
                      auto model = load(batch);
                      require_fits(model, bundle_, batch);
                      return std::make_shared<Compiled>(batch, std::move(model));
                  }) {
        // Single images are judged at any time, so batches of other sizes must not displace their
        // model.
        prepare(1);
    }

    Runtime runtime() const override { return Runtime::openvino; }
    std::size_t max_batch() const override { return max_batch_; }
    std::string remark() const override { return cache_.remark(); }

    void prepare(std::size_t count) override {
        with_context("cannot compile the graph for a batch of " + std::to_string(count), [&] { models_.keep(count); });
    }

    void run(const std::uint8_t *images, std::size_t count, const Sink &sink) override {
        with_context("failed on a batch of " + std::to_string(count), [&] { models_.get(count)->run(images, sink); });
    }

private:
    ov::AnyMap configuration() const {
        ov::AnyMap config{ov::hint::inference_precision(is_bf16_ ? ov::element::bf16 : ov::element::f32),
                          ov::hint::execution_mode(is_bf16_ ? ov::hint::ExecutionMode::PERFORMANCE
                                                            : ov::hint::ExecutionMode::ACCURACY),
                          ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                          // With pinning, the threads of two processes would share the first cores.
                          ov::hint::enable_cpu_pinning(false)};
        if (threads_ > 0) config.insert(ov::inference_num_threads(threads_));
        return config;
    }

    ov::CompiledModel load(std::size_t batch) {
        std::ostringstream key;
        // "2": the first version could store a model under the hash of a graph whose file had been
        // replaced.
        key << "embed 2\n"
            << KDX_VERSION << '\n'
            << ov::get_openvino_version().buildNumber << '\n'
            << core_.get_property(kDevice, ov::device::full_name) << '\n';
        // Virtual machines give CPUs with other instructions the same name.
        for (const auto &capability : core_.get_property(kDevice, ov::device::capabilities)) key << capability << ' ';
        key << '\n'
            << sha256_ << '\n'
            << batch << '\n'
            << is_bf16_ << '\n'
            << threads_;
        if (const auto blob = cache_.read(key.str())) {
            std::istringstream stream(*blob);
            try {
                return core_.import_model(stream, kDevice, configuration());
            } catch (const std::exception &) {
                // The blob is complete but not for this OpenVINO: the graph is compiled again.
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

    // Each detector has its own core, so that nothing outlives the detector.
    ov::Core core_;
    const Bundle &bundle_;
    GraphSource graph_;
    const std::string sha256_;  // of the graph's bytes; a part of the cache key
    const bool is_bf16_;
    const int threads_;
    const std::size_t max_batch_;
    const BlobCache cache_;
    BatchCache<Compiled> models_;
};

}  // namespace

BackendKind openvino_kind() {
    return {Runtime::openvino,
            {Precision::int8, Precision::bf16, Precision::fp32},
            computes,
            [](const Bundle &bundle, Precision precision, int) { return bundle.has(precision); },
            [](const Bundle &bundle, std::string graph, const BackendOptions &options) -> std::unique_ptr<Backend> {
                return std::make_unique<OpenVino>(bundle, std::move(graph), options);
            }};
}

}  // namespace kdx::embed
