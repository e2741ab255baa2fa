// From a bundle to verdicts, whatever runs it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend.h"
#include "bundle.h"
#include "position.h"
#include "roi.h"

namespace kdx::embed {

class Detector {
public:
    // Opens a bundle, checks every file, and compares the golden images with the reference. keys: by one of
    // which it must be signed; null: signed or not. Throws Failure.
    Detector(const std::string &path, const kdx_options &options, const std::vector<PublicKey> *keys = nullptr);

    void describe(kdx_description &description) const;

    // verdicts: count structures, verdict_size bytes apart. maps may be null. In another region of interest than the
    // bundle's, every decision is undecided; roi null: whole images, the graph's own scores. Throws Failure.
    void infer(std::size_t count, const kdx_image *images, kdx_verdict *verdicts, std::size_t verdict_size,
               const kdx_map *maps, const Roi *roi) const;

    const Bundle &bundle() const { return bundle_; }
    const std::string &precision() const { return precision_; }
    const Threshold &threshold() const { return threshold_; }
    Backend &backend() const { return *backend_; }
    const Roi *roi() const { return roi_ ? &*roi_ : nullptr; }
    const Level *level() const { return level_ ? &*level_ : nullptr; }

private:
    // Lets the backend get ready for batches of so many images, and returns the sizes of the graph's batches for them.
    std::vector<std::size_t> prepared(std::int32_t count) const;
    void infer_part(std::size_t count, const Frame *frames, const std::uint8_t *packed, kdx_verdict *verdicts,
                    std::size_t verdict_size, const kdx_map *maps, const Roi *roi) const;
    kdx_verdict verdict_on(float score, const Frame &frame, const Threshold &threshold, std::uint32_t fault) const;
    void keep_map(const float *values, const kdx_map &map, const Roi *roi) const;

    Bundle bundle_;
    std::string precision_;
    Threshold threshold_;
    std::optional<Roi> roi_;
    std::optional<Level> level_;
    std::unique_ptr<Backend> backend_;
};

// What is said of a score: Detector::decide of kdx/runtime/detector.py.
kdx_decision decide(double score, const Threshold &threshold, std::uint32_t frame_faults);

// Why a decision is undecided where the graph's answer has no fault: KDX_REASON_...
std::uint32_t reason_for(double score, const Threshold &threshold);

void selftest(const Detector &detector, double budget_ms, double percentile, int calls, kdx_selftest_report &report);

}  // namespace kdx::embed
