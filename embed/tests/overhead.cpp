// kdx_overhead BUNDLE PRECISION THREADS CALLS: the time that the library adds to OpenVINO's own
// call of the same compiled graph. Both calls alternate in one process. Prints their medians in
// milliseconds, as JSON.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

#include "golden.h"
#include "open_detector.h"
#include "openvino_graph.h"
#include "verify.h"

namespace {

using Clock = std::chrono::steady_clock;

ov::InferRequest raw_request(ov::Core &core, const kdx::embed::Detector &detector, int threads) {
    auto model = core.read_model(detector.bundle().graph_of(detector.precision()).string());
    auto shape = model->input().get_partial_shape();
    shape[0] = 1;
    model->reshape(shape);
    kdx::embed::reduce_channel_sums(*model);
    kdx::embed::use_unsigned_activations(*model);
    const bool bf16 = detector.precision() == kdx::embed::Precision::bf16;
    if (bf16) model = kdx::embed::with_fp32_island(core, model);
    return core
        .compile_model(
            model, "CPU", ov::hint::inference_precision(bf16 ? ov::element::bf16 : ov::element::f32),
            ov::hint::execution_mode(bf16 ? ov::hint::ExecutionMode::PERFORMANCE : ov::hint::ExecutionMode::ACCURACY),
            ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY), ov::hint::enable_cpu_pinning(false),
            ov::inference_num_threads(threads))
        .create_infer_request();
}

}  // namespace

int main(int argc, char **argv) try {
    if (argc != 5) return 2;
    const std::string precision = argv[2];
    const int threads = std::atoi(argv[3]), calls = std::atoi(argv[4]);
    kdx_options options{};
    options.struct_size = sizeof options;
    options.precision = precision.c_str();
    options.threads = threads;
    const auto opened = kdx::embed::open_detector(argv[1], options);
    const auto &detector = *opened;
    const auto &bundle = detector.bundle();
    const auto golden = kdx::embed::read_golden(bundle);
    const auto size = golden.images.size() / golden.count;
    ov::Core core;
    auto request = raw_request(core, detector, threads);
    const auto shape = request.get_input_tensor().get_shape();
    std::vector<float> map(golden.maps.size() / golden.count);
    std::vector<double> ours, raw;
    for (int call = -20; call < 2 * calls; ++call) {
        auto *pixels = const_cast<std::uint8_t *>(golden.images.data() + (call + 20) / 2 % golden.count * size);
        const bool is_ours = call % 2 == 0;
        const auto started = Clock::now();
        if (is_ours) {
            const kdx_image image{pixels, bundle.height, bundle.width,
                                  bundle.channels == 1 ? KDX_MONO8
                                  : bundle.bgr         ? KDX_BGR8
                                                       : KDX_RGB8,
                                  0};
            const kdx_map target{map.data(), 0};
            kdx_verdict verdict{};
            detector.infer(1, &image, &verdict, sizeof verdict, &target, detector.roi());
        } else {
            request.set_input_tensor(ov::Tensor(ov::element::u8, shape, pixels));
            request.infer();
        }
        const auto ms = std::chrono::duration<double, std::milli>(Clock::now() - started).count();
        if (call >= 0) (is_ours ? ours : raw).push_back(ms);
    }
    std::printf("{\"precision\": \"%s\", \"threads\": %d, \"calls\": %d, \"library_ms\": %.4f, \"raw_ms\": %.4f}\n",
                precision.c_str(), threads, calls, kdx::embed::median_of(ours), kdx::embed::median_of(raw));
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
