// The state of a caller's memory before a call and after a failed call: nothing in it lets a part
// pass.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kdx/kdx.h"

namespace kdx::embed {

struct Bundle;

// Larger numbers of images in one call are mistakes, such as a negative number.
constexpr std::size_t kMostImages = std::size_t{1} << 20;

// The size of kdx_verdict in the first published version, which ended before the reason.
constexpr std::size_t kFirstVerdict = offsetof(kdx_verdict, reason);
// The size in the second version, which ended before the relative score.
constexpr std::size_t kSecondVerdict = offsetof(kdx_verdict, relative_score);

// Whether a struct_size is valid: at least the size in the first published version, and not a value
// of uninitialised memory.
bool is_size(std::uint32_t size, std::size_t first);

// Makes verdicts undecided, with NaN as their numbers. Only the first is written if neither the
// first nor the second has a valid size, because the distance between verdicts is not known, and if
// count exceeds kMostImages, because the array may be shorter than count.
void reset_verdicts(kdx_verdict *verdicts, std::size_t count) noexcept;

// Fills maps with NaN, except those without data or with rows that overlap. maps may be null.
void reset_maps(const kdx_map *maps, std::size_t count, const Bundle &bundle) noexcept;

// Whether the rows of a map do not overlap.
bool has_rows(const kdx_map &map, const Bundle &bundle);

// An empty description, and the report of a test that did not run.
kdx_description blank_description();
kdx_selftest_report blank_report();

}  // namespace kdx::embed
