// The declaration of a method: the taps, distances and rules with which its maps and scores are
// computed. The counterpart of kdx/bundle/pair_spec.py.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace kdx::embed {

enum class Distance { half_squared_l2, cosine };
enum class Combine { sum, product };
enum class ScoreRule { max, sum };
enum class Join { single, confirmed, score_first, score_second, score_both };

struct TapSpec {
    Distance distance;
    double weight = 1;
};

struct MapSpec {
    Combine combine;
    std::vector<TapSpec> taps;
};

struct PairSpec {
    std::vector<MapSpec> maps;       // one or two; none if this version does not know all of them
    std::optional<Join> join;        // nothing: not known to this version
    std::optional<ScoreRule> score;  // nothing: not known to this version

    // The rule by which the returned map alone determines the score; nothing if it does not. The
    // other joins multiply two maps, or score a map that is not returned.
    std::optional<ScoreRule> rule_of_returned_map() const {
        return join == Join::single || join == Join::score_first ? score : std::nullopt;
    }
};

// Reads a declaration from JSON. Unknown words and wrong types leave their field empty.
PairSpec parse_pair_spec(const std::string &text);

}  // namespace kdx::embed
