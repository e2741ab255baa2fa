// OpenVINO's CPU plugin: the FP32 and the INT8 graph, and the FP32 graph in BF16. The precision is always stated: left
// to itself, OpenVINO computes an FP32 graph in BF16 on CPUs that can, and scores move.
#include <algorithm>
#include <list>
#include <mutex>
#include <openvino/openvino.hpp>
#include <sstream>

#include "backend.h"
#include "blob_cache.h"
#include "error.h"
#include "openvino_graph.h"
#include "pool.h"

namespace kdx::embed {

namespace {

constexpr const char *kDevice = "CPU";
// A compiled model holds weights of its own, laid out for its batch size.
constexpr std::size_t kKeptBatchSizes = 4;

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

class OpenVino : public Backend {
public:
    OpenVino(const Bundle &bundle, const BackendOptions &options)
        : graph_(bundle.graph_of(options.precision)),
          sha256_(bundle.hash_of(Bundle::graph_name(options.precision))),
          is_bf16_(options.precision == "bf16"),
          threads_(options.threads),
          max_batch_(static_cast<std::size_t>(bundle.max_batch)),
          cache_(options.cache) {
        guarded("cannot load '" + graph_.string() + "'", [this] { compiled(1); });
    }

    const char *name() const override { return "openvino"; }
    std::size_t max_batch() const override { return max_batch_; }

    void run(const std::uint8_t *images, std::size_t count, const Sink &sink) override {
        guarded("failed on " + std::to_string(count) + " images", [&] { compiled(count)->run(images, sink); });
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

    std::shared_ptr<Compiled> compiled(std::size_t batch) {
        const std::lock_guard lock(mutex_);
        auto found = std::find_if(models_.begin(), models_.end(), [&](const auto &each) { return each->batch == batch; });
        if (found == models_.end()) {
            models_.push_front(std::make_shared<Compiled>(batch, load(batch)));
            if (models_.size() > kKeptBatchSizes) models_.pop_back();
        } else {
            models_.splice(models_.begin(), models_, found);
        }
        return models_.front();
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
        key << "embed\n" << KDX_VERSION << '\n' << ov::get_openvino_version().buildNumber << '\n'
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
        auto model = core_.read_model(graph_.string());
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
    const std::filesystem::path graph_;
    const std::string sha256_;
    const bool is_bf16_;
    const int threads_;
    const std::size_t max_batch_;
    const BlobCache cache_;
    std::mutex mutex_;
    std::list<std::shared_ptr<Compiled>> models_;
};

}  // namespace

BackendKind openvino_kind() {
    return {"openvino",
            {"int8", "bf16", "fp32"},
            computes,
            [](const Bundle &bundle, const BackendOptions &options) -> std::unique_ptr<Backend> {
                return std::make_unique<OpenVino>(bundle, options);
            }};
}

}  // namespace kdx::embed
