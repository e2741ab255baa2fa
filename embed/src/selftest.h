// The check at the start of a shift: files, golden images and latency. The counterpart of
// kdx/loading/selftest.py.
#pragma once

#include <optional>

#include "detector.h"
#include "error.h"

namespace kdx::embed {

// Fills a report, and returns why the test failed; nothing if it passed. Throws Failure
// (KDX_ERROR_ARGUMENT) for an invalid budget, percentile or number of calls.
std::optional<Failure> selftest(const Detector &detector, double budget_ms, double percentile, int calls,
                                kdx_selftest_report &report);

}  // namespace kdx::embed
