// Returns verdicts on images, with any backend. The counterpart of kdx/runtime/detector.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend.h"
#include "bundle.h"
#include "camera_frames.h"
#include "frame.h"
#include "kdx/kdx.h"
#include "level_map.h"
#include "roi.h"

namespace kdx::embed {

class Detector {
public:
    // Opens a backend on a bundle. graph: the content of the graph of options.precision. Throws
    // Failure. The golden images are not compared yet: see open_detector().
    Detector(Bundle bundle, const BackendKind &kind, std::string graph, const BackendOptions &options);
    // The backend refers to the detector's bundle.
    Detector(const Detector &) = delete;
    Detector &operator=(const Detector &) = delete;

    // Prepares batches of `count` images, and returns the sizes of the batches in which the graph
    // runs for them.
    std::vector<std::size_t> prepare(std::size_t count) const;

    void describe(kdx_description &description) const;
    kdx_pixel_format pixel_format() const;  // of images that need no copy
    FrameSpec frame_spec() const;

    // Judges images. verdicts: `count` structures, verdict_size bytes apart. maps may be null. roi:
    // the region of interest; null: whole images with the graph's own scores. In any region but the
    // bundle's, every decision is undecided. Throws Failure.
    void infer(std::size_t count, const kdx_image *images, kdx_verdict *verdicts, std::size_t verdict_size,
               const kdx_map *maps, const Roi *roi) const;

    // Returns the score that is decided: of a raw map and its score, after the level map and the
    // region of interest. Writes the normalised map into `normalised` and lets `map` point to it,
    // if there is a level map.
    float post_process(const float *&map, float score, const Roi *roi, std::vector<float> &normalised) const;

    const Bundle &bundle() const { return bundle_; }
    Precision precision() const { return precision_; }
    const Threshold &threshold() const { return threshold_; }
    Backend &backend() const { return *backend_; }
    const Roi *roi() const { return roi_ ? &*roi_ : nullptr; }
    const Level *level() const { return level_ ? &*level_ : nullptr; }

private:
    Frame frame_of_camera(const kdx_image &image) const;
    void infer_part(std::size_t count, const Frame *frames, const std::uint8_t *packed, kdx_verdict *verdicts,
                    std::size_t verdict_size, const kdx_map *maps, const Roi *roi) const;
    kdx_verdict verdict_on(float score, const Frame &frame, const Threshold &threshold, std::uint32_t fault) const;
    void write_map(const float *values, const kdx_map &map, const Roi *roi) const;

    const Bundle bundle_;
    const Precision precision_;
    Threshold threshold_;
    std::optional<Roi> roi_;
    std::optional<Level> level_;
    std::unique_ptr<Backend> backend_;
};

// Decides on a score, as Detector.decide of kdx/runtime/detector.py does.
kdx_decision decide(double score, const Threshold &threshold, std::uint32_t frame_faults);

// Returns why a decision is undecided if the graph's answer has no fault: KDX_REASON_...
std::uint32_t reason_for(double score, const Threshold &threshold);

}  // namespace kdx::embed
