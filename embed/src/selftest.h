// The check at the start of a shift: files, golden images and latency. The counterpart of
// kdx/loading/selftest.py.
#pragma once

#include "detector.h"

namespace kdx::embed {

// Fills a report; throws Failure (KDX_ERROR_ARGUMENT) for an invalid budget, percentile or number
// of calls.
void selftest(const Detector &detector, double budget_ms, double percentile, int calls, kdx_selftest_report &report);

}  // namespace kdx::embed
