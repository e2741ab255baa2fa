#include "pair_spec.h"

#include <nlohmann/json.hpp>

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

// Looks up the word under a name; nothing if it is missing, unknown or not text.
template <class T, std::size_t count>
std::optional<T> word_at(const json &record, const char *name, const Word<T> (&words)[count]) {
    const auto found = record.find(name);
    if (found == record.end() || !found->is_string()) return std::nullopt;
    return value_of(words, found->get_ref<const std::string &>());
}

std::optional<MapSpec> map_from(const json &record) {
    const auto combine = record.is_object() ? word_at(record, "combine", kCombines) : std::nullopt;
    if (!combine || !record.contains("taps") || !record["taps"].is_array() || record["taps"].empty())
        return std::nullopt;
    MapSpec map{*combine, {}};
    for (const auto &tap : record["taps"]) {
        const auto distance = tap.is_object() ? word_at(tap, "distance", kDistances) : std::nullopt;
        if (!distance || (tap.contains("weight") && !tap["weight"].is_number())) return std::nullopt;
        map.taps.push_back({*distance, tap.value("weight", 1.0)});
    }
    return map;
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
    spec.score = word_at(record, "score", kScoreRules);
    spec.join = record.contains("join") ? word_at(record, "join", kJoins) : Join::single;
    if (record.contains("maps")) spec.maps = maps_from(record["maps"]);
    return spec;
}

}  // namespace kdx::embed
