// A bundle on disk, read and checked. The counterpart of kdx/bundle/bundle.py.
#pragma once

#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "answers.h"
#include "frame_faults.h"
#include "good_scores.h"
#include "pair_spec.h"
#include "precision.h"
#include "signature.h"

namespace kdx::embed {

constexpr const char *kIndex = "bundle.json";
constexpr const char *kRoi = "roi.png";
constexpr const char *kLevel = "position_level.npy";
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

struct Threshold {
    double score = kNone, pixel = kNone, review = kNone;  // NaN: none
    GoodScores good_scores;
    std::string by_hand;  // why a person set it; empty: it was chosen from scores
    bool is_set() const { return score == score; }
};

// What was changed after a threshold was calibrated, so that the threshold no longer holds.
enum class Change { none, region_of_interest, level_map };

// A threshold as the manifest records it.
struct Calibration {
    Threshold threshold;
    Change changed_since = Change::none;
};

// How frames larger than the graph's input are cut, in pixels of the camera. Without rows, frames
// are not cut.
struct Tiling {
    std::vector<int> rows, columns;  // where tiles begin
    int overlap = 0, halo = 0, batch = 0;
    bool is_set() const { return !rows.empty(); }
};

// The pixels of a frame that a map covers along an axis.
struct Covered {
    double begin, length;
};

// The window of the camera's frame that the networks see; without a width, they see all of it.
struct Crop {
    int left = 0, top = 0, width = 0, height = 0;
    bool is_set() const { return width > 0; }
};

struct Bundle {
    std::filesystem::path path;
    int height = 0, width = 0, channels = 0;  // of the graph's input: an image, or a tile
    bool bgr = false;
    int sixteen_bit_low = 0, sixteen_bit_high = 65535;  // the two 16-bit grey values that become 0 and 255
    int map_height = 0, map_width = 0, max_batch = 0;
    Tiling tiling;
    int camera_height = 0, camera_width = 0;  // of the camera's frame
    int camera_map_height = 0, camera_map_width = 0;
    double field_of_view = 1;  // of the window, if there is one
    Crop crop;
    FrameLimits frame_limits;
    AnswerLimits answer_limits;
    std::optional<ScoreRule> score_rule;  // nothing: the returned map alone does not give the score
    std::vector<std::string> golden;      // file names under golden/
    std::vector<Precision> precisions;    // of the graphs in the bundle; fp32 first
    // FP32 and FP16 share one threshold in every runtime; it is stored under no runtime.
    using ThresholdKey = std::pair<Precision, std::optional<Runtime>>;
    std::map<ThresholdKey, Calibration> calibrations;
    bool is_int8_runtime_known = true;         // false: schema 1 did not record it
    bool has_int8_students = false;            // trained as INT8 networks, with a reference of their own
    bool has_residual_additions = true;        // in the INT8 students' graph; also where it is not recorded
    std::map<std::string, std::string> files;  // SHA-256 by relative POSIX path
    std::string index_sha256;                  // of bundle.json when it was opened
    std::optional<Seal> seal;                  // the verified signature, if one was required
    std::vector<PublicKey> keys;               // one of which must have made it

    // Returns the rows and the columns of the frame that the map covers.
    Covered rows_covered() const {
        return crop.is_set() ? centred(crop.top, crop.height) : centred(0, camera_height);
    }
    Covered columns_covered() const {
        return crop.is_set() ? centred(crop.left, crop.width) : centred(0, camera_width);
    }

    // Returns the ONNX graph of a precision; throws Failure (KDX_ERROR_BUNDLE) if the bundle holds
    // none.
    std::filesystem::path graph_of(Precision precision) const;
    // Returns the file name of that graph. BF16 computes the FP32 graph.
    static std::string graph_name(Precision precision);
    const std::string &hash_of(const std::string &file) const { return files.at(file); }
    bool has(Precision precision) const;
    bool has_roi() const { return files.count(kRoi) > 0; }
    bool has_level() const { return files.count(kLevel) > 0; }
    // Whether a precision is compared with the fake-quantised module that its students were trained
    // as, and not with FP32.
    bool is_own_reference(Precision precision) const { return precision == Precision::int8 && has_int8_students; }
    // Returns the files with the maps and the scores that a precision is compared with.
    std::pair<std::string, std::string> reference_files(Precision precision) const;

    // Returns the threshold that holds with this region of interest and level map. FP32 and FP16
    // need no runtime.
    Threshold threshold_of(Precision precision, std::optional<Runtime> runtime = std::nullopt) const;
    Change changed_since(Precision precision, std::optional<Runtime> runtime = std::nullopt) const;
    // Returns what takes away a precision's verdicts: a change since its own calibration or, if it
    // has none, since that of FP32.
    Change invalidated_by(Precision precision, Runtime runtime) const;
    // Whether a precision can decide in a runtime if FP32 can.
    bool is_calibrated_like_fp32(Precision precision, Runtime runtime) const;
    // Says why a precision gives no verdict in a runtime although the bundle was calibrated; empty
    // if it gives one.
    std::string why_undecided(Precision precision, Runtime runtime) const;
    // Says what is not known about the threshold in use; empty for nothing.
    std::string doubt_about(Precision precision, Runtime runtime) const;

    // Reads a file that the index lists. The returned bytes are the bytes that were hashed,
    // whatever happens to the file later. Throws Failure (KDX_ERROR_BUNDLE) if the file is missing
    // or altered, or is a graph that is not plain.
    std::string read(const std::string &name) const;
    // Hashes every file; throws as read() does, for the first file that fails. Returns the content
    // of the graph named `wanted`, if any: the bytes that were hashed, without reading them a
    // second time.
    std::string check_files(const std::string &wanted = "") const;

private:
    Covered centred(int begin, int length) const {
        const double margin = length * (1 - field_of_view) / 2;
        return {begin + margin, length - 2 * margin};
    }
    std::filesystem::path file_of(const std::string &name) const;
    void require_hash(const std::string &name, const std::string &received) const;
};

}  // namespace kdx::embed
