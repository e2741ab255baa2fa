// Opening a bundle. The counterpart of kdx/bundle/open.py.
#pragma once

#include <filesystem>
#include <vector>

#include "bundle.h"

namespace kdx::embed {

// Reads the index of a bundle and checks the schema, the paths and the values in it; throws Failure
// (KDX_ERROR_BUNDLE). No other file is read before check_files() is called. keys: the bundle must
// be signed by one of them; null: it need not be signed. The text that was verified is the text
// that is parsed.
Bundle open_bundle(const std::filesystem::path &path, const std::vector<PublicKey> *keys = nullptr);

// Checks that bundle.json on disk is still the one that was opened, and its signature the one that
// was required, if any. Throws Failure (KDX_ERROR_BUNDLE).
void require_same_index(const Bundle &bundle);

}  // namespace kdx::embed
