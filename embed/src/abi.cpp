// The C interface: it checks arguments and turns exceptions into statuses.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "blank.h"
#include "camera_frames.h"
#include "detector.h"
#include "error.h"
#include "kdx/kdx.h"
#include "keys.h"
#include "open_detector.h"
#include "regions.h"
#include "selftest.h"
#include "text.h"

struct kdx_detector {
    std::unique_ptr<kdx::embed::Detector> opened;

    const kdx::embed::Detector &get() const { return *opened; }
};

namespace {

using kdx::embed::Details;
using kdx::embed::Failure;
using kdx::embed::kFirstVerdict;

// Of the thread. Its size is fixed, so that an error message needs no memory when memory has run
// out.
thread_local char last_error[1024] = "";

void remember(const char *what) noexcept { kdx::embed::copy_text(what, last_error, sizeof last_error); }

void remember(const Failure &failure) noexcept {
    try {
        remember(failure.within(sizeof last_error - 1).c_str());
    } catch (...) {  // out of memory: the end is cut
        remember(failure.what());
    }
}

template <class Action>
kdx_status guarded(Action &&action) noexcept {
    try {
        action();
        return KDX_OK;
    } catch (const Failure &failure) {
        remember(failure);
        return failure.status;
    } catch (const std::bad_alloc &) {
        remember("out of memory");
        return KDX_ERROR_MEMORY;
    } catch (const std::exception &error) {
        remember(error.what());
    } catch (...) {
        remember("an unknown exception was thrown");
    }
    return KDX_ERROR_INTERNAL;
}

[[noreturn]] void refuse(const std::string &what, const Details &details = {}) {
    throw Failure(KDX_ERROR_ARGUMENT, what, details);
}

void require_pointer(const void *pointer, const char *name) {
    if (!pointer) refuse(std::string(name) + " is null");
}

// The sizes of the structures in the first published version. No valid caller has smaller ones.
constexpr std::size_t kFirstOptions = offsetof(kdx_options, batch_sizes);
constexpr std::size_t kFirstDescription = offsetof(kdx_description, said);
constexpr std::size_t kFirstReport = sizeof(kdx_selftest_report);
constexpr std::size_t kFirstBuffer = sizeof(kdx_buffer);
constexpr std::size_t kMostBatchSizes = 4096;
constexpr int kMostThreads = 1024;  // as in kdx/runtime/backend.py

void require_size(std::uint32_t size, std::size_t first, const char *name) {
    if (!kdx::embed::is_size(size, first))
        refuse(std::string(name) + " has no valid struct_size", {"", "", "initialise it with KDX_INIT"});
}

// Copies the fields that both the caller and this library know. The caller's struct_size stays as
// it is.
template <class T>
void hand_over(T made, T *target) {
    const auto size = target->struct_size;
    made.struct_size = size;
    std::memcpy(target, &made, std::min<std::size_t>(size, sizeof made));
}

void require_map(const kdx_map &map, const kdx::embed::Bundle &bundle) {
    if (map.data && !kdx::embed::has_rows(map, bundle))
        refuse("the rows of the map overlap: its row_stride is too small");
}

// Checks the mask of a region of interest, whose caller need not know of images that the detector
// accepts.
kdx::embed::Frame mask_of(const kdx_image &roi, const kdx::embed::Bundle &bundle) {
    try {
        return kdx::embed::frame_of(roi, bundle.camera_height, bundle.camera_width, 1, false);
    } catch (const Failure &failure) {
        throw Failure(failure.status, "the region of interest cannot be used: " + failure.message,
                      {failure.details.expected, failure.details.received,
                       "pass a KDX_MONO8 image of the camera's size, 255 for pixels that count and 0 for others"});
    }
}

// Makes a call that returns verdicts and maps. A caller that ignores the status must not find a
// result that lets a part pass: neither one of an earlier call, nor one of an image that this call
// judged before another image failed.
template <class Action>
kdx_status judged(const kdx_detector *detector, std::size_t count, kdx_verdict *verdicts, const kdx_map *maps,
                  Action &&action) noexcept {
    kdx::embed::reset_verdicts(verdicts, count);
    const auto status = guarded(action);
    if (status == KDX_OK) return status;
    kdx::embed::reset_verdicts(verdicts, count);
    if (detector) kdx::embed::reset_maps(maps, count, detector->get().bundle());
    return status;
}

kdx_options read_options(const kdx_options *options) {
    kdx_options given{};
    if (!options) return given;
    require_size(options->struct_size, kFirstOptions, "options");
    std::memcpy(&given, options, std::min<std::size_t>(options->struct_size, sizeof given));
    if (given.threads < 0 || given.threads > kMostThreads)
        refuse("invalid threads", {"0 to 1024", std::to_string(given.threads), ""});
    if (given.device < 0) refuse("invalid device", {"0 or more", std::to_string(given.device), ""});
    if (given.batch_size_count > kMostBatchSizes)
        refuse("too many batch sizes", {"at most 4096", std::to_string(given.batch_size_count), ""});
    if (given.batch_size_count) require_pointer(given.batch_sizes, "batch_sizes");
    for (std::size_t i = 0; i < given.batch_size_count; ++i)
        if (given.batch_sizes[i] < 1 || static_cast<std::size_t>(given.batch_sizes[i]) > kdx::embed::kMostImages)
            refuse("invalid batch size", {"1 to 1048576", std::to_string(given.batch_sizes[i]), ""});
    return given;
}

void open(const char *bundle, const kdx_options *options, const std::vector<kdx::embed::PublicKey> *keys,
          kdx_detector **detector) {
    require_pointer(detector, "detector");
    *detector = nullptr;
    require_pointer(bundle, "bundle");
    *detector = new kdx_detector{kdx::embed::open_detector(bundle, read_options(options), keys)};
}

}  // namespace

kdx_status kdx_open(const char *bundle, const kdx_options *options, kdx_detector **detector) noexcept {
    return guarded([&] { open(bundle, options, nullptr, detector); });
}

kdx_status kdx_open_signed(const char *bundle, const kdx_options *options, const char *const *public_keys, size_t count,
                           kdx_detector **detector) noexcept {
    return guarded([&] {
        require_pointer(detector, "detector");
        *detector = nullptr;
        const auto keys = kdx::embed::read_public_keys(public_keys, count);
        open(bundle, options, &keys, detector);
    });
}

kdx_status kdx_describe(const kdx_detector *detector, kdx_description *description) noexcept {
    return guarded([&] {
        require_pointer(description, "description");
        require_size(description->struct_size, kFirstDescription, "description");
        hand_over(kdx::embed::blank_description(), description);
        require_pointer(detector, "detector");
        kdx_description made{};
        detector->get().describe(made);
        hand_over(made, description);
    });
}

kdx_status kdx_infer(kdx_detector *detector, const kdx_image *image, kdx_verdict *verdict,
                     const kdx_map *map) noexcept {
    return kdx_infer_batch(detector, 1, image, verdict, map);
}

kdx_status kdx_infer_batch(kdx_detector *detector, size_t count, const kdx_image *images, kdx_verdict *verdicts,
                           const kdx_map *maps) noexcept {
    return judged(detector, count, verdicts, maps, [&] {
        require_pointer(detector, "detector");
        if (count == 0) return;
        if (count > kdx::embed::kMostImages)
            refuse("too many images in one call", {"at most 1048576", std::to_string(count), ""});
        require_pointer(images, "images");
        require_pointer(verdicts, "verdicts");
        require_size(verdicts->struct_size, kFirstVerdict, "verdicts");
        const auto &opened = detector->get();
        for (std::size_t i = 0; maps && i < count; ++i) require_map(maps[i], opened.bundle());
        opened.infer(count, images, verdicts, verdicts->struct_size, maps, opened.roi());
    });
}

kdx_status kdx_infer_roi(kdx_detector *detector, const kdx_image *image, const kdx_image *roi, kdx_verdict *verdict,
                         const kdx_map *map) noexcept {
    if (!roi) return kdx_infer(detector, image, verdict, map);
    return judged(detector, 1, verdict, map, [&] {
        require_pointer(detector, "detector");
        require_pointer(image, "image");
        require_pointer(verdict, "verdict");
        require_size(verdict->struct_size, kFirstVerdict, "verdict");
        const auto &bundle = detector->get().bundle();
        if (map) require_map(*map, bundle);
        const auto mask = mask_of(*roi, bundle);
        const kdx::embed::Roi region(bundle, mask.data, mask.row_stride);
        detector->get().infer(1, image, verdict, verdict->struct_size, map, &region);
    });
}

kdx_status kdx_decode(const kdx_detector *detector, const kdx_buffer *buffer, uint8_t *pixels, size_t room,
                      kdx_image *image) noexcept {
    if (image) *image = {};
    std::size_t size = 0;
    const auto status = guarded([&] {
        require_pointer(detector, "detector");
        const auto spec = detector->get().frame_spec();
        size = static_cast<std::size_t>(spec.height) * spec.width * spec.channels;
        require_pointer(pixels, "pixels");
        require_pointer(image, "image");
        if (room < size)
            refuse("there is not enough room for the pixels",
                   {std::to_string(size) + " bytes", std::to_string(room) + " bytes", ""});
        require_pointer(buffer, "buffer");
        require_size(buffer->struct_size, kFirstBuffer, "buffer");
        require_pointer(buffer->pixel_format, "buffer->pixel_format");
        require_pointer(buffer->data, "buffer->data");
        kdx::embed::decode_frame(*buffer, spec, pixels);
        *image = {pixels, spec.height, spec.width, detector->get().pixel_format(), 0};
    });
    // A caller that ignores the status must not find the pixels of an earlier part.
    if (status != KDX_OK && pixels && room >= size) std::memset(pixels, 0, size);
    return status;
}

kdx_status kdx_regions(const kdx_detector *detector, const kdx_map *map, double threshold, double min_area,
                       double pixel_size_um, size_t room, kdx_region *regions, size_t *count) noexcept {
    return guarded([&] {
        require_pointer(count, "count");
        *count = 0;
        require_pointer(detector, "detector");
        require_pointer(map, "map");
        require_pointer(map->data, "map->data");
        if (room) require_pointer(regions, "regions");
        const auto &opened = detector->get();
        if (std::isnan(threshold))
            refuse("regions need a threshold",
                   {"a number, such as the description's pixel_threshold", "NaN",
                    opened.threshold().pixel == opened.threshold().pixel
                        ? ""
                        : "this bundle has no pixel_threshold: calibrate it (kdx calibrate), or choose a number"});
        if (!(min_area >= 0 && std::isfinite(min_area) && pixel_size_um >= 0 && std::isfinite(pixel_size_um)))
            refuse("invalid min_area or pixel_size_um", {"finite numbers of at least 0", "", ""});
        require_map(*map, opened.bundle());
        const auto found =
            kdx::embed::find_regions(opened.bundle(), opened.level(), *map, threshold, min_area, pixel_size_um);
        std::copy_n(found.begin(), std::min(room, found.size()), regions);
        *count = found.size();
    });
}

kdx_status kdx_selftest(kdx_detector *detector, double budget_ms, double percentile, int32_t calls,
                        kdx_selftest_report *report) noexcept {
    if (report) report->passed = 0;
    auto made = kdx::embed::blank_report();
    const auto status = guarded([&] {
        require_pointer(report, "report");
        require_size(report->struct_size, kFirstReport, "report");
        hand_over(made, report);
        require_pointer(detector, "detector");
        auto found = made;  // what is not measured stays NaN
        const auto failure = kdx::embed::selftest(detector->get(), budget_ms, percentile, calls, found);
        hand_over(found, report);
        if (failure) remember(*failure);
    });
    if (status != KDX_OK && report && kdx::embed::is_size(report->struct_size, kFirstReport)) {
        kdx::embed::copy_text(last_error, made.said, sizeof made.said);
        hand_over(made, report);
    }
    return status;
}

void kdx_close(kdx_detector *detector) noexcept { delete detector; }

const char *kdx_last_error(void) noexcept { return last_error; }

uint32_t kdx_abi_version(void) noexcept { return KDX_ABI_VERSION; }

const char *kdx_version(void) noexcept { return KDX_VERSION; }
