#include "manifest_fields.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>

#include "json_reading.h"

namespace kdx::embed {

using nlohmann::json;

namespace {

bool is_text(const json &value) { return value.is_string(); }
bool is_number(const json &value) { return value.is_number(); }
bool is_whole(const json &value) { return value.is_number_integer(); }
bool is_flag(const json &value) { return value.is_boolean(); }
bool is_object(const json &value) { return value.is_object(); }
bool is_array(const json &value) { return value.is_array(); }
bool is_text_or_null(const json &value) { return value.is_null() || is_text(value); }
bool is_number_or_null(const json &value) { return value.is_null() || is_number(value); }
bool is_object_or_null(const json &value) { return value.is_null() || is_object(value); }
bool is_whole_or_null(const json &value) { return value.is_null() || is_whole(value); }
bool is_interval(const json &value) {
    return value.is_array() && value.size() == 2 && std::all_of(value.begin(), value.end(), is_number_or_null);
}
bool are_texts(const json &value) { return value.is_array() && std::all_of(value.begin(), value.end(), is_text); }

struct NamedField {
    const char *name;
    bool (*is_valid)(const json &value);
    bool is_required = true;
};

void require(const json &record, const std::string &name, std::initializer_list<NamedField> fields) {
    if (!record.is_object()) throw Invalid{"'" + name + "' is not an object"};
    for (const auto &field : fields) {
        const auto found = record.find(field.name);
        if (found == record.end() && field.is_required) throw Invalid{"'" + name + "' has no '" + field.name + "'"};
        if (found != record.end() && !field.is_valid(*found))
            throw Invalid{"'" + std::string(field.name) + "' of '" + name + "' has an invalid value"};
    }
}

// Calls an action with the object under a name, if there is one.
template <class Action>
void with_object(const json &record, const char *name, Action &&action) {
    const auto found = record.find(name);
    if (found != record.end() && !found->is_null()) action(*found);
}

void require_defects(const json &record) {
    require(record, "defects",
            {{"images", is_whole}, {"misses", is_whole}, {"false_rejects", is_whole}, {"data_sha256", is_text}});
}

void require_threshold(const json &record, const std::string &name) {
    require(record, name,
            {{"score", is_number},
             {"false_reject_rate", is_number},
             {"interval", is_interval},
             {"confidence", is_number},
             {"data_sha256", is_text},
             {"graph_sha256", is_text},
             {"created", is_text},
             {"pixel", is_number_or_null, false},
             {"scores", is_array, false},
             {"roi_sha256", is_text_or_null, false},
             {"by_hand", is_object, false}});
    whole_number(record.at("images"), 0);
    with_object(record, "review", [](const json &review) {
        require(review, "review", {{"score", is_number}, {"false_reject_rate", is_number}, {"interval", is_interval}});
    });
    with_object(record, "level", [](const json &level) {
        require(level, "level", {{"sha256", is_text}, {"images", is_whole}, {"data_sha256", is_text}});
    });
    with_object(record, "defects", require_defects);
    with_object(record, "by_hand", [](const json &given) {
        require(given, "by_hand",
                {{"score", is_number},
                 {"review_score", is_number_or_null},
                 {"reason", is_text},
                 {"defects", is_object_or_null},
                 {"factor", is_number, false}});
        with_object(given, "defects", require_defects);
    });
}

void require_thresholds(const json &records, const std::string &name) {
    require(records, name, {});
    for (const auto &[key, record] : records.items()) require_threshold(record, key);
}

void require_provenance(const json &record) {
    require(record, "provenance",
            {{"created", is_text},
             {"checkpoint_sha256", is_text},
             {"epoch", is_whole},
             {"backbone", is_text},
             {"weights", is_text},
             {"data_sha256", is_text},
             {"trained_with", is_object},
             {"exported_with", is_object},
             {"planned_epochs", is_whole_or_null, false}});
    with_object(record, "int8", [](const json &students) {
        require(students, "int8",
                {{"checkpoint_sha256", is_text},
                 {"teacher_sha256", is_text},
                 {"epoch", is_whole},
                 {"headroom", is_number},
                 {"residual_additions", is_whole, false}});
    });
}

}  // namespace

void require_fields(const json &manifest) {
    require(manifest, "bundle.json",
            {{"kdx_version", is_text}, {"method", is_text}, {"calibration_images", are_texts, false}});
    for (const auto *name : {"pair_spec", "files"}) require(manifest.at(name), name, {});
    require(manifest.at("input"), "input", {{"fixed_size", is_flag, false}});
    require_provenance(manifest.at("provenance"));
    with_object(manifest, "threshold", [](const json &threshold) { require_threshold(threshold, "threshold"); });
    if (manifest.contains("runtime_thresholds")) {
        require(manifest["runtime_thresholds"], "runtime_thresholds", {});
        for (const auto &[name, records] : manifest["runtime_thresholds"].items()) require_thresholds(records, name);
    }
    if (manifest.contains("thresholds")) require_thresholds(manifest["thresholds"], "thresholds");
    if (manifest.contains("frame_limits")) {
        const auto &limits = manifest["frame_limits"];
        require(limits, "frame_limits", {{"channels", is_array, false}, {"images", is_whole, false}});
        if (limits.contains("channels"))
            for (const auto &channel : limits["channels"]) require(channel, "channels", {});
    }
    if (manifest.contains("variants")) {
        require(manifest["variants"], "variants", {});
        for (const auto &[name, variant] : manifest["variants"].items())
            require(variant, name,
                    {{"file", is_text},
                     {"convolutions", is_whole},
                     {"kept", is_array},
                     {"ranges", is_object_or_null, false},
                     {"judged", is_array, false}});
    }
    with_object(manifest, "tiling", [](const json &tiling) {
        require(tiling, "tiling", {{"seam", is_number, false}, {"bands", is_flag, false}});
    });
}

}  // namespace kdx::embed
