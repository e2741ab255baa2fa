// From the path of a bundle to a detector that has proved its decisions on the golden images.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "detector.h"

namespace kdx::embed {

// Opens a bundle, checks every file, compiles the models, and compares the golden images with the
// reference. keys: the bundle must be signed by one of them; null: it need not be signed. Throws
// Failure.
std::unique_ptr<Detector> open_detector(const std::string &path, const kdx_options &options,
                                        const std::vector<PublicKey> *keys = nullptr);

}  // namespace kdx::embed
