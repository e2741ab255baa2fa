// The C++17 interface of kdx: kdx.h with destructors, vectors and exceptions. It is header-only, so
// no C++ type crosses the boundary of the library.
#ifndef KDX_KDX_HPP
#define KDX_KDX_HPP

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kdx.h"

namespace kdx {

// A call of the library failed: its status, and its message as what().
class Error : public std::runtime_error {
public:
    Error(kdx_status status, const std::string &what) : std::runtime_error(what), status_(status) {}
    kdx_status status() const noexcept { return status_; }

private:
    kdx_status status_;
};

// Throws Error if a call failed.
inline void check(kdx_status status) {
    if (status != KDX_OK) throw Error(status, kdx_last_error());
}

struct Options {
    std::string backend;    // empty: the first that was compiled in
    std::string precision;  // empty: the fastest that the bundle holds and that decides
    std::string cache_dir;  // empty: compiled models are not kept
    int threads = 0;
    int device = 0;
    // Public keys, one of which must have signed the bundle: paths of PEM files, or their content.
    // An empty list is an error.
    std::optional<std::vector<std::string>> require_signature;
    std::vector<std::int32_t> batch_sizes;  // sizes that batch() will be called with
};

// An undecided verdict, until a result is assigned. A call that throws leaves the variable as it
// was: declare the variable inside the loop.
struct Verdict {
    kdx_decision decision = KDX_UNDECIDED;
    std::uint32_t frame_faults = 0;
    float score = std::numeric_limits<float>::quiet_NaN();
    double threshold = std::numeric_limits<double>::quiet_NaN();
    double margin = std::numeric_limits<double>::quiet_NaN();
    std::uint32_t reason = KDX_REASON_NONE;
    double relative_score = std::numeric_limits<double>::quiet_NaN();
    double p_value = std::numeric_limits<double>::quiet_NaN();
    std::int64_t held_out_images = 0;

    bool is_good() const noexcept { return decision == KDX_GOOD; }
};

inline const char *name_of(kdx_decision decision) noexcept {
    return decision == KDX_GOOD        ? "good"
           : decision == KDX_REVIEW    ? "review"
           : decision == KDX_DEFECTIVE ? "defective"
                                       : "undecided";
}

// A view of pixels, which the caller owns.
inline kdx_image image_of(const std::uint8_t *data, int height, int width, kdx_pixel_format format,
                          std::int64_t row_stride = 0) noexcept {
    return {data, height, width, format, row_stride};
}

// An open bundle. It may be called from several threads at once, but not moved or destroyed during
// a call.
class Detector {
public:
    // Throws Error if the bundle is refused or the runtime fails.
    explicit Detector(const std::string &bundle, const Options &options = {}) {
        kdx_options given;
        KDX_INIT(given);
        given.threads = options.threads;
        given.device = options.device;
        given.backend = options.backend.empty() ? nullptr : options.backend.c_str();
        given.precision = options.precision.empty() ? nullptr : options.precision.c_str();
        given.cache_dir = options.cache_dir.empty() ? nullptr : options.cache_dir.c_str();
        given.batch_sizes = options.batch_sizes.data();
        given.batch_size_count = options.batch_sizes.size();
        kdx_detector *opened = nullptr;
        if (options.require_signature) {
            std::vector<const char *> keys;
            for (const auto &key : *options.require_signature) keys.push_back(key.c_str());
            check(kdx_open_signed(bundle.c_str(), &given, keys.data(), keys.size(), &opened));
        } else {
            check(kdx_open(bundle.c_str(), &given, &opened));
        }
        handle_.reset(opened);
        KDX_INIT(description_);
        check(kdx_describe(opened, &description_));
    }

    const kdx_description &describe() const noexcept { return description_; }

    // Judges an image.
    Verdict operator()(const kdx_image &image) { return infer(image, nullptr); }

    // Judges an image and fills its map: map_height rows of map_width values, which are all NaN if
    // the call throws.
    Verdict operator()(const kdx_image &image, std::vector<float> &anomaly_map) {
        anomaly_map.resize(static_cast<std::size_t>(description_.map_height) * description_.map_width);
        const kdx_map map{anomaly_map.data(), 0};
        return infer(image, &map);
    }

    // Decodes a camera's buffer (see kdx_buffer) into an image that operator() accepts. The image is
    // a view of the pixels.
    kdx_image decode(const void *data, std::size_t size, int height, int width, const std::string &pixel_format,
                     std::vector<std::uint8_t> &pixels, std::int64_t row_stride = 0) {
        kdx_buffer buffer;
        KDX_INIT(buffer);
        buffer.height = height, buffer.width = width;
        buffer.pixel_format = pixel_format.c_str();
        buffer.data = data, buffer.size = size, buffer.row_stride = row_stride;
        pixels.resize(static_cast<std::size_t>(description_.height) * description_.width * description_.channels);
        kdx_image image;
        check(kdx_decode(handle_.get(), &buffer, pixels.data(), pixels.size(), &image));
        return image;
    }

    // Judges an image in a region of interest for this call only. In any other than the bundle's,
    // the verdict is undecided.
    Verdict in_roi(const kdx_image &image, const kdx_image &roi) {
        kdx_verdict raw;
        KDX_INIT(raw);
        check(kdx_infer_roi(handle_.get(), &image, &roi, &raw, nullptr));
        return verdict_of(raw);
    }

    // Judges several images in one call.
    std::vector<Verdict> batch(const std::vector<kdx_image> &images) {
        std::vector<kdx_verdict> raw(images.size());
        for (auto &each : raw) KDX_INIT(each);
        check(kdx_infer_batch(handle_.get(), images.size(), images.data(), raw.data(), nullptr));
        std::vector<Verdict> verdicts;
        verdicts.reserve(raw.size());
        for (const auto &each : raw) verdicts.push_back(verdict_of(each));
        return verdicts;
    }

    // Finds the regions of a map that operator() filled, the region with the highest peak first.
    std::vector<kdx_region> regions(const std::vector<float> &anomaly_map, double min_area = 0, double pixel_size_um = 0) {
        const auto size = static_cast<std::size_t>(description_.map_height) * description_.map_width;
        if (anomaly_map.size() != size) throw Error(KDX_ERROR_ARGUMENT, "the map has another size than the detector's");
        const kdx_map map{const_cast<float *>(anomaly_map.data()), 0};  // only read
        std::vector<kdx_region> found(64);
        for (std::size_t count = 0;;) {
            check(kdx_regions(handle_.get(), &map, description_.pixel_threshold, min_area, pixel_size_um, found.size(),
                              found.data(), &count));
            const bool was_room = count <= found.size();
            found.resize(count);
            if (was_room) return found;
        }
    }

    // The check at the start of a shift. A failed test does not throw: see report.passed.
    kdx_selftest_report selftest(double budget_ms = 0, double percentile = 95, int calls = 40) {
        kdx_selftest_report report;
        KDX_INIT(report);
        check(kdx_selftest(handle_.get(), budget_ms, percentile, calls, &report));
        return report;
    }

    kdx_detector *handle() const noexcept { return handle_.get(); }

private:
    struct Closer {
        void operator()(kdx_detector *detector) const noexcept { kdx_close(detector); }
    };

    static Verdict verdict_of(const kdx_verdict &raw) noexcept {
        return {raw.decision, raw.frame_faults,   raw.score,   raw.threshold,      raw.margin,
                raw.reason,   raw.relative_score, raw.p_value, raw.held_out_images};
    }

    Verdict infer(const kdx_image &image, const kdx_map *map) {
        kdx_verdict raw;
        KDX_INIT(raw);
        check(kdx_infer(handle_.get(), &image, &raw, map));
        return verdict_of(raw);
    }

    std::unique_ptr<kdx_detector, Closer> handle_;
    kdx_description description_;
};

}  // namespace kdx

#endif
