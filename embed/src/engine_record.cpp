#include "engine_record.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "error.h"
#include "files.h"
#include "json_reading.h"
#include "sha256.h"

namespace kdx::embed {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kRecordSchema = 1;
constexpr const char *kRecord = "engine.json", *kPlan = "model.plan";
// The flavour of the engines that this library runs. Others are for TensorRT for RTX.
constexpr const char *kFlavour = "tensorrt";

// Returns the first three numbers of a version such as 10.16.1.11. The fourth is the build.
std::string release_of(const std::string &version) {
    std::size_t at = 0;
    for (int dots = 0; at < version.size(); ++at)
        if (version[at] == '.' && ++dots == 3) break;
    return version.substr(0, at);
}

// Checks that a required signature covers a file of an engine: a plan is code for the GPU.
void require_signed(const Bundle &bundle, const fs::path &engine, const char *file, const std::string &received) {
    const auto name = "engines/" + engine.filename().u8string() + '/' + file;
    const auto found = bundle.seal->engines.find(name);
    const bool is_listed = found != bundle.seal->engines.end();
    if (is_listed && found->second == received) return;
    throw Failure(KDX_ERROR_BUNDLE, "'" + name + "' in '" + bundle.path.string() + "' is not what was signed",
                  {is_listed ? "sha256 " + found->second : std::string("listed in ") + kSignature, "sha256 " + received,
                   std::string(kSignAgain) + ", with the engines in it; or remove '" + engine.string() +
                       "'; or name a backend that runs no engine"});
}

// Returns the text of an engine's record, after checking that the required signature covers it and
// the plan.
std::string read_record(const Bundle &bundle, const fs::path &engine) {
    auto text = read_file(engine / kRecord);
    require_signed(bundle, engine, kRecord, hexadecimal(sha256_of(text)));
    require_signed(bundle, engine, kPlan, has_file(engine / kPlan) ? sha256_of_file(engine / kPlan) : "none");
    return text;
}

}  // namespace

EngineRecord parse_engine_record(const std::string &text, const fs::path &folder) {
    const auto refused = [&](const std::string &why) {
        return Failure(KDX_ERROR_BACKEND, "'" + (folder / kRecord).string() + "' " + why);
    };
    try {
        const auto record = parse_json(text);
        const auto &schema = record.at("schema");
        if (!schema.is_number_integer() || schema < 1) throw refused("is not valid: there is no schema " + schema.dump());
        if (schema > kRecordSchema) throw refused("was written by a newer kdx");
        const auto &built = record.at("fingerprint");
        EngineRecord read;
        read.plan = folder / kPlan;
        read.flavour = built.at("flavour").get<std::string>();
        read.tensorrt = built.at("tensorrt").get<std::string>();
        read.compute_capability = built.at("compute_capability").get<std::string>();
        if (built.contains("gpu") && !built["gpu"].is_null()) read.gpu = built["gpu"].get<std::string>();
        read.system = built.at("system").get<std::string>();
        read.precision = record.at("precision").get<std::string>();
        read.onnx_sha256 = record.at("onnx_sha256").get<std::string>();
        read.plan_sha256 = record.at("plan_sha256").get<std::string>();
        read.batches = whole_numbers(record.at("batches"), 1, 4096);
        if (read.batches.empty() || !std::is_sorted(read.batches.begin(), read.batches.end()))
            throw refused("lists no valid batch sizes");
        if (record.contains("level")) read.level = whole_number(record["level"], 0, 5);
        return read;
    } catch (const Invalid &invalid) {
        throw refused("is not valid: " + invalid.why);
    } catch (const json::exception &error) {
        throw refused(std::string("is not valid: ") + error.what());
    }
}

std::string mismatch(const EngineRecord &record, const Machine &machine, const std::string &onnx_sha256) {
    const auto differs = [](const char *what, const std::string &theirs, const std::string &ours) {
        return std::string("built for ") + what + " " + theirs + ", here is " + ours;
    };
    if (record.onnx_sha256 != onnx_sha256) return "built from another graph: it is outdated or has another precision";
    if (record.flavour != kFlavour) return differs("flavour", record.flavour, kFlavour);
    if (release_of(record.tensorrt) != release_of(machine.tensorrt))
        return differs("TensorRT", record.tensorrt, machine.tensorrt);
    if (record.compute_capability != machine.compute_capability)
        return differs("compute capability", record.compute_capability, machine.compute_capability);
    if (record.system != machine.system) return differs("system", record.system, machine.system);
    // The builder chose kernels by timing them on that card. Another card of the same capability
    // may lack resources for them.
    if (record.gpu != machine.gpu) return "built on " + record.gpu + ", here is " + machine.gpu;
    return "";
}

// Returns the command that builds an engine for a machine: of the batches and the level of a like
// engine, in the place of one that is there. The counterpart of kdx/bundle/engine_record.py.
std::string build_command(const Bundle &bundle, Precision precision, const EngineRecord *like, bool replaces) {
    auto command = "kdx build-engine " + bundle.path.string() +
                   (precision == Precision::fp32 ? "" : std::string(" --") + name_of(precision)) + " --flavour " +
                   kFlavour;
    if (like && like->batches != std::vector<int>{1}) {
        const char *separator = " --batch ";
        for (const auto batch : like->batches) command += separator + std::to_string(batch), separator = ",";
    }
    if (like && like->level != EngineRecord().level) command += " --level " + std::to_string(like->level);
    return command + (replaces ? " --force" : "");
}

EngineRecord find_engine(const Bundle &bundle, Precision precision, const Machine &machine) {
    const auto &sha256 = bundle.hash_of(Bundle::graph_name(precision));
    std::vector<fs::path> folders;
    std::error_code error, ignored;
    for (const auto &entry : fs::directory_iterator(bundle.path / "engines", error)) {
        // One that cannot be examined is named among the reasons, or refused under a signature.
        const auto record = fs::status(entry.path() / kRecord, ignored);
        // A name that begins with a dot is an engine under construction, or what a killed build
        // left behind.
        const bool is_finished = entry.path().filename().string().front() != '.';
        if (is_finished && (fs::is_regular_file(record) || !fs::status_known(record)))
            folders.push_back(entry.path());
    }
    if (error && error != std::errc::no_such_file_or_directory) refuse_unreadable(bundle.path / "engines", error);
    std::sort(folders.begin(), folders.end());
    // All records are checked against a required signature before one is chosen, as
    // kdx/bundle/signature.py does.
    std::vector<std::string> texts;
    for (const auto &folder : folders)
        if (bundle.seal) texts.push_back(read_record(bundle, folder));
    std::string reasons;
    const auto target =
        std::string(kFlavour) + '-' + machine.compute_capability + '-' + name_of(precision);  // of a new engine
    bool replaces = false;
    std::optional<EngineRecord> like;
    for (std::size_t i = 0; i < folders.size(); ++i) {
        const auto &folder = folders[i];
        const bool is_replaced = folder.filename() == target;
        replaces = replaces || is_replaced;
        std::string reason;
        try {
            auto record = parse_engine_record(bundle.seal ? texts[i] : read_file(folder / kRecord), folder);
            reason = mismatch(record, machine, sha256);
            if (reason.empty()) return record;
            const bool is_alike = record.flavour == kFlavour && record.precision == name_of(precision);
            if (is_alike && (is_replaced || !like)) like = record;
        } catch (const Failure &failure) {
            reason = failure.message;
        }
        reasons += (reasons.empty() ? "engines/" : "; engines/") + folder.filename().string() + ": " + reason;
    }
    const auto here = "TensorRT " + machine.tensorrt + ", compute capability " + machine.compute_capability + ", " +
                      machine.gpu + ", " + machine.system;
    throw Failure(
        KDX_ERROR_BACKEND,
        "'" + bundle.path.filename().string() + "' holds no engine of " + Bundle::graph_name(precision) +
            " for this machine",
        {here, reasons.empty() ? "no engine" : reasons,
         build_command(bundle, precision, like ? &*like : nullptr, replaces)});
}

std::string read_plan(const EngineRecord &record) {
    auto plan = has_file(record.plan) ? read_file(record.plan) : std::string();
    if (hexadecimal(sha256_of(plan)) != record.plan_sha256)
        throw Failure(KDX_ERROR_BACKEND, "'" + record.plan.string() + "' is missing or was altered",
                      {"", "", "build the engine again (kdx build-engine --force)"});
    return plan;
}

}  // namespace kdx::embed
