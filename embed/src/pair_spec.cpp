#include "pair_spec.h"

#include <nlohmann/json.hpp>
#include <type_traits>

#include "words.h"

namespace kdx::embed {

namespace {

using nlohmann::json;

constexpr Word<Distance> kDistances[] = {{"half_squared_l2", Distance::half_squared_l2}, {"cosine", Distance::cosine}};
constexpr Word<Combine> kCombines[] = {{"sum", Combine::sum}, {"product", Combine::product}};
constexpr Word<ScoreRule> kScoreRules[] = {{"max", ScoreRule::max}, {"sum", ScoreRule::sum}};
constexpr Word<Join> kJoins[] = {{"single", Join::single},
                                 {"confirmed", Join::confirmed},
                                 {"score_first", Join::score_first},
                                 {"score_second", Join::score_second},
                                 {"score_both", Join::score_both}};
constexpr std::size_t kMostMaps = 2;

// Looks up the word under a name; nothing if it is unknown, not text, or absent without a default.
template <class T, std::size_t count>
std::optional<T> word_at(const json &record, const char *name, const Word<T> (&words)[count],
                         std::optional<std::common_type_t<T>> default_value = std::nullopt) {
    const auto found = record.find(name);
    if (found == record.end()) return default_value;
    return found->is_string() ? value_of(words, found->get_ref<const std::string &>()) : std::nullopt;
}

bool is_number_or_absent(const json &record, const char *name) {
    const auto found = record.find(name);
    return found == record.end() || found->is_number();
}

std::optional<std::vector<TapSpec>> taps_from(const json &records) {
    if (!records.is_array()) return std::nullopt;
    std::vector<TapSpec> taps;
    for (const auto &tap : records) {
        if (!tap.is_object() || !tap.contains("name") || !tap["name"].is_string() ||
            !is_number_or_absent(tap, "weight") || !is_number_or_absent(tap, "loss_weight"))
            return std::nullopt;
        const auto distance = word_at(tap, "distance", kDistances, Distance::half_squared_l2);
        if (!distance) return std::nullopt;
        taps.push_back({*distance, tap.value("weight", 1.0)});
    }
    return taps;
}

std::optional<MapSpec> map_from(const json &record) {
    if (!record.is_object() || !record.contains("taps") || !is_number_or_absent(record, "blur_sigma"))
        return std::nullopt;
    const auto combine = word_at(record, "combine", kCombines);
    auto taps = taps_from(record["taps"]);
    if (!combine || !taps || taps->empty()) return std::nullopt;
    return MapSpec{*combine, std::move(*taps)};
}

std::vector<MapSpec> maps_from(const json &records) {
    std::vector<MapSpec> maps;
    if (!records.is_array() || records.size() > kMostMaps) return maps;
    for (const auto &record : records) {
        auto map = map_from(record);
        if (!map) return {};
        maps.push_back(std::move(*map));
    }
    return maps;
}

}  // namespace

PairSpec parse_pair_spec(const std::string &text) {
    const auto record = json::parse(text, nullptr, false);
    PairSpec spec;
    if (!record.is_object()) return spec;
    spec.score = word_at(record, "score", kScoreRules, ScoreRule::max);
    spec.join = word_at(record, "join", kJoins, Join::single);
    // Taps that are only trained are in no map, but one that is not known means that this
    // declaration is of a newer version.
    const bool is_trained_known = !record.contains("trained") || taps_from(record["trained"]);
    if (record.contains("maps") && is_trained_known) spec.maps = maps_from(record["maps"]);
    return spec;
}

}  // namespace kdx::embed
