// A bundle on disk, read and checked as kdx/bundle/bundle.py does it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "answer.h"
#include "frame.h"
#include "signing.h"

namespace kdx::embed {

constexpr const char *kRoi = "roi.png";
constexpr const char *kLevel = "position_level.npy";
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

struct Threshold {
    double score = kNone, pixel = kNone, review = kNone;  // NaN: none
    bool is_set() const { return score == score; }
};

// How frames larger than the graph's input are cut, in pixels of the camera; without rows they are not.
struct Tiling {
    std::vector<int> rows, columns;  // where tiles begin
    int overlap = 0, halo = 0, batch = 0;
    bool is_set() const { return !rows.empty(); }
};

struct Bundle {
    std::filesystem::path path;
    int height = 0, width = 0, channels = 0;  // of what the graph takes: an image, or a tile
    bool bgr = false;
    int map_height = 0, map_width = 0, max_batch = 0;
    Tiling tiling;
    int camera_height = 0, camera_width = 0;  // of what the camera delivers, and of its map
    int camera_map_height = 0, camera_map_width = 0;
    double field_of_view = 1;
    FrameLimits frame_limits;
    AnswerLimits answer_limits;
    std::vector<std::string> golden;           // file names under golden/
    std::vector<std::string> precisions;       // of the graphs that are there; fp32 first
    // By precision and runtime; FP32's and FP16's is everybody's, and stands under no runtime.
    using ByRuntime = std::pair<std::string, std::string>;
    std::map<ByRuntime, Threshold> thresholds;  // of this region of interest and level map
    std::map<ByRuntime, std::string> stale;     // what was changed since the calibration
    bool is_int8_runtime_known = true;          // schema 1 did not record which runtime measured INT8's threshold
    std::string score_rule;          // how the returned map becomes the score, "max" or "sum"; empty: not of it alone
    std::map<std::string, std::string> files;  // SHA-256 by relative POSIX path
    std::optional<Seal> seal;                  // the signature, where one was required; it was verified

    // The ONNX graph of a precision; throws Failure (KDX_ERROR_BUNDLE) where there is none.
    std::filesystem::path graph_of(const std::string &precision) const;
    // The file's name of that graph, and its SHA-256.
    static std::string graph_name(const std::string &precision);
    const std::string &hash_of(const std::string &file) const { return files.at(file); }

    bool has(const std::string &precision) const;
    // Whether a precision can decide in a runtime wherever FP32 can. Backends are called like their runtimes.
    bool is_calibrated_alike(const std::string &precision, const std::string &runtime) const;
    Threshold threshold_of(const std::string &precision, const std::string &runtime = "") const;
    // Why a precision gives no verdict in a runtime though the bundle was calibrated; empty where it gives one.
    std::string why_undecided(const std::string &precision, const std::string &runtime) const;
    // What is not known of the threshold that decides; empty for nothing.
    std::string doubt_about(const std::string &precision, const std::string &runtime) const;
    bool has_roi() const { return files.count(kRoi) > 0; }
    bool has_level() const { return files.count(kLevel) > 0; }
    // What was changed after a precision's calibration, which does not hold since, in words; empty: nothing.
    std::string changed_since(const std::string &precision, const std::string &runtime) const;

    // Reads a file that the index lists: what is returned is what was hashed, whatever becomes of the file. Throws Failure
    // (KDX_ERROR_BUNDLE) where it is missing or altered, or is a graph that is not plain.
    std::string read(const std::string &name) const;
    // Hashes every file; throws as read() does, for the first that fails. Returns the content of the graph that is wanted,
    // if any: the very bytes that were hashed, without a second reading.
    std::string check_files(const std::string &wanted = "") const;

private:
    std::filesystem::path file_of(const std::string &name) const;
    void require_hash(const std::string &name, const std::string &received) const;
};

// Reads the index of a bundle and checks schema, paths and what it says; throws Failure (KDX_ERROR_BUNDLE). No other file is
// looked at before check_files() is called. keys: by one of which it must be signed; null: signed or not. What was verified
// is what is parsed.
Bundle open_bundle(const std::filesystem::path &path, const std::vector<PublicKey> *keys = nullptr);

// Reads the manifest alone, from bundle.json's text: no file is touched. What the fuzzer calls.
Bundle parse_manifest(const std::string &text, const std::filesystem::path &path);

// Reads a whole file; throws Failure (KDX_ERROR_BUNDLE).
std::string read_file(const std::filesystem::path &file);

}  // namespace kdx::embed
