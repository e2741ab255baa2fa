// Does a stored threshold contradict the calibration that is stored beside it? The counterpart of
// kdx/bundle/threshold_checks.py.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace kdx::embed {

// Whether a threshold, given as its record in bundle.json, and the lower end of its review band are
// what its own held-out scores give, as far as they are stored. Throws nlohmann's json::exception
// for a record of another layout.
bool fits_its_scores(const nlohmann::json &threshold);

// Whether a threshold that a person set is the number that was given. On the scale of BF16's or
// INT8's scores, it is that number times the record's factor. Without a factor, only the ratio to
// the lower end of its review band is known. Throws as above.
bool is_as_given(const nlohmann::json &threshold, bool is_scaled);

}  // namespace kdx::embed
