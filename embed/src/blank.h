// What a caller's memory says before an answer stands in it, and where none comes: nothing that lets a part pass.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kdx/kdx.h"

namespace kdx::embed {

struct Bundle;

// More than anybody judges in one call: a larger number is a mistake, such as a negative one.
constexpr std::size_t kMostImages = std::size_t{1} << 20;

// The smallest kdx_verdict that was ever published: it ended before the reason.
constexpr std::size_t kFirstVerdict = offsetof(kdx_verdict, reason);

// Whether a structure's size is one that a caller can have: at least that of the first version that was published, and
// not what stands in memory that was never set.
bool is_size(std::uint32_t size, std::size_t first);

// Makes verdicts undecided, with numbers that compare as false with everything. Where neither the first nor the second has
// a size (see is_size), only the first is written: how far they lie apart is not known. Of more than kMostImages only those
// are written that have the first one's size: there may be far fewer of them than count says.
void reset_verdicts(kdx_verdict *verdicts, std::size_t count) noexcept;

// Fills maps with NaN, but for those without data or with rows that overlap. maps may be null.
void reset_maps(const kdx_map *maps, std::size_t count, const Bundle &bundle) noexcept;

// Whether a map's rows do not overlap.
bool has_rows(const kdx_map &map, const Bundle &bundle);

// A description of nothing, and a report of a test that was not made.
kdx_description blank_description();
kdx_selftest_report blank_report();

}  // namespace kdx::embed
